import { expect, test } from "vitest";
import { Loading } from "../src/progress";

test("parts count by their bytes, and nothing is said while a size is not known; one more part takes nothing back", () => {
  const loading = new Loading();
  expect(loading.text).toBe("");
  loading.add("runtime", 0, 0);
  loading.add("bundle", 50, 100);
  expect(loading.text).toBe("");
  loading.add("runtime", 150, 300);
  expect(loading.text).toBe("50 %");
  loading.add("runtime", 300, 300);
  expect(loading.text).toBe("87 %");
  loading.add("another", 0, 9_000);
  expect(loading.text).toBe("87 %");
  loading.add("another", 9_000, 9_000);
  loading.add("bundle", 120, 100);
  expect(loading.text).toBe("100 %");
});
