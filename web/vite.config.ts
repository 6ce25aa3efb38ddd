import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const OUT = "../analytics_server/web";
const ORT = "node_modules/onnxruntime-web/dist";

/** Says which source the page was built from: tests/analytics_server/test_built_page.py compares. */
function sourceDigest(): string {
  const inside = ["src", "public"].flatMap((folder) =>
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => `${entry.parentPath}/${entry.name}`.replaceAll("\\", "/")),
  );
  const files = [...inside, "THIRD_PARTY", "check.html", "index.html", "package.json", "tsconfig.json", "vite.config.ts"];
  const digest = createHash("sha256");
  for (const file of files.sort()) digest.update(`${file}\0`).update(readFileSync(file)).update("\0");
  return digest.digest("hex");
}

/**
 * ONNX Runtime and the sample clip go beside the page as they are; the runtimes' wasm compressed, 4 instead of 14 MB. The
 * second one has WebGPU and is loaded only where there is a GPU to try (docs/web.md).
 */
function companions(): Plugin {
  return {
    name: "companions",
    apply: "build",
    closeBundle() {
      mkdirSync(`${OUT}/ort`, { recursive: true });
      mkdirSync(`${OUT}/samples`, { recursive: true });
      for (const script of ["ort.wasm.bundle.min.mjs", "ort.jspi.bundle.min.mjs"]) copyFileSync(`${ORT}/${script}`, `${OUT}/ort/${script}`);
      for (const binary of ["ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.jspi.wasm"]) {
        writeFileSync(`${OUT}/ort/${binary}.gz`, gzipSync(readFileSync(`${ORT}/${binary}`), { level: 9 }));
      }
      copyFileSync("../recordings/samples/tour.mp4", `${OUT}/samples/tour.mp4`);
      writeFileSync(`${OUT}/source.sha256`, `${sourceDigest()}\n`);
      copyFileSync("THIRD_PARTY", `${OUT}/THIRD_PARTY`);
    },
  };
}

export default defineConfig({
  base: "./",
  build: {
    outDir: OUT, emptyOutDir: true, target: "es2022", modulePreload: { polyfill: false },
    rollupOptions: { input: ["index.html", "check.html"] },
  },
  worker: { format: "es" },
  plugins: [companions()],
  test: { environment: "node", testTimeout: 60_000 }, // A busy machine is no failure.
} as Parameters<typeof defineConfig>[0]);
