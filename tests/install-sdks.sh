#!/usr/bin/env bash
# Installs the drivers of the official LaunchDarkly SDKs (tests/sdks) for the integration tests.
#
# Goes to ${PILOTLIGHT_TEST_TOOLS:-<repository>/.cache/tools}/sdks, one folder per language, each
# with a copy of the sources it was made from (the tests compare it, so that they never run an old
# driver); `client` is that of the client-side SDKs, whose pages are bundled here and run in the
# Chromium of install-tools.sh. What is up to date is left alone. Needs python3, node with npm, go,
# java with mvn.
set -Eeuo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
sources="$repository/tests/sdks"
tools="${PILOTLIGHT_TEST_TOOLS:-$repository/.cache/tools}/sdks"

# Package registries fail now and then; their clients do not all try again.
download_attempts=3
download_pause_seconds=5

main() {
  mkdir -p "$tools"
  # Two runs at once (a developer's and an editor's) would build in each other's folders.
  exec 9>"$tools/lock"
  flock 9
  install_driver python python3 --version
  install_driver node npm --version
  install_driver client npm --version
  install_driver go go version
  install_driver java javac -version
}

# install_driver LANGUAGE VERSION_COMMAND...: runs build_LANGUAGE in a fresh folder, unless the
# folder was made from the same inputs by the same tool.
install_driver() {
  local language=$1 folder="$tools/$1" stamp started=$SECONDS
  shift
  if ! command -v "$1" >/dev/null; then
    echo "install-sdks: $1 is missing; the $language SDK needs it" >&2
    return 1
  fi
  stamp=$(stamp_of "$language" "$@")
  if [[ -f "$folder/stamp" && "$(<"$folder/stamp")" == "$stamp" ]]; then
    echo "install-sdks: $language is up to date"
    return
  fi
  echo "install-sdks: $language: installing"
  rm -rf -- "$folder"
  mkdir -p "$folder/sources"
  cp -- "$sources/$language"/* "$folder/sources/"
  (cd -- "$folder" && "build_$language")
  # Last, so that an interrupted build is not taken for a finished one.
  echo "$stamp" >"$folder/stamp"
  echo "install-sdks: $language: done in $((SECONDS - started)) s"
}

stamp_of() {
  local language=$1
  shift
  {
    "$@" 2>&1
    echo "$tools"
    (cd -- "$sources/$language" && sha256sum -- *)
    sha256sum <"${BASH_SOURCE[0]}"
  } | sha256sum
}

build_python() {
  python3 -m venv venv
  # The pins name every package, so nothing else may come in by a dependency.
  downloading venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check \
    --no-deps --requirement sources/requirements.txt
  venv/bin/python -m pip check
}

build_node() {
  cd sources
  downloading npm ci --ignore-scripts --no-audit --no-fund --loglevel=error "$@"
}

build_client() {
  # Without peer dependencies, because React Native is a large one, and replaced below.
  build_node --legacy-peer-deps
  # One of its files is CommonJS although the package says that all are modules. The bundler of React
  # Native looks into each file, and so does esbuild if the package says nothing.
  sed -i '/"type": "module"/d' node_modules/@launchdarkly/react-native-client-sdk/package.json
  # React logs far less, and renders as for customers, if it is told that this is production.
  node_modules/.bin/esbuild page*.mjs page*.jsx --bundle --format=iife --jsx=automatic \
    --define:process.env.NODE_ENV='"production"' --alias:react-native=./phone.mjs \
    --log-level=warning --outdir=../pages
}

build_go() {
  cd sources
  downloading go mod download
  go build -mod=readonly -trimpath -o ../driver .
}

build_java() {
  downloading mvn --batch-mode --quiet --no-transfer-progress -Dstyle.color=never \
    --file sources/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$PWD/lib"
  javac -Xlint:all -Werror -cp 'lib/*' -d classes sources/Driver.java
}

downloading() {
  local attempt
  for ((attempt = 1; attempt < download_attempts; attempt++)); do
    if "$@"; then
      return
    fi
    echo "install-sdks: '$1' failed, attempt $attempt of $download_attempts" >&2
    sleep "$download_pause_seconds"
  done
  "$@"
}

main
