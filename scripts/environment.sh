# Sourced by scripts/demo and scripts/test: makes .venv, once, and again when the pins change.
# Usage: prepare_environment EXTRAS [GROUP]
# A stamp over constraints.txt, pyproject.toml and the C source decides whether anything is to be done.

prepare_environment() {
  local extras=$1 group=${2:-} python stamp wanted quiet=--quiet
  [ -t 2 ] && quiet=  # people see what is downloaded, logs do not
  python=$(find_python) || return 1
  stamp=".venv/stamp-${extras//,/-}${group:+-$group}"
  wanted=$(cat constraints.txt pyproject.toml hatch_build.py pipeline/codec/_range_coder.c | sha256sum | cut -d' ' -f1)
  if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return 0
  fi
  echo "Preparing .venv (once; a few minutes, mostly downloads) ..." >&2
  if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || {
      rm -rf .venv
      echo "frankenstream: $python cannot make a virtual environment: sudo apt-get install python3-venv" >&2
      return 1
    }
  fi
  if [ -n "$group" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1" || return 1
  fi
  # shellcheck disable=SC2086  # $quiet is a flag or nothing
  .venv/bin/python -m pip install --disable-pip-version-check $quiet \
    --constraint constraints.txt --editable ".[$extras]" ${group:+--group "$group"} || {
    echo "frankenstream: the installation failed (see above): check the network, then run this again" >&2
    return 1
  }
  echo "$wanted" > "$stamp"
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "frankenstream: no Python >= 3.11 found: sudo apt-get install python3 python3-venv" >&2
  return 1
}

# Whether the page's source can be tested here: npm, and a Node.js that Vite and Vitest run on.
has_node() {
  command -v npm >/dev/null && node -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 22 || (major === 22 && minor >= 13) || (major === 20 && minor >= 19) ? 0 : 1);' 2>/dev/null
}

# Whether the browser tests find a browser; tests/browser/conftest.py looks for the same names.
has_chromium() {
  command -v chromium chromium-browser google-chrome >/dev/null
}
