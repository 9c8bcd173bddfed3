#!/usr/bin/env bash
# Installs the real programs that the tests start: Redis, Valkey, Consul, DynamoDB Local, and
# Chromium for the client-side SDKs.
#
# Everything goes into one folder ($PILOTLIGHT_TEST_TOOLS, by default .cache/tools of the
# repository); nothing is installed into the system, no service is started, root is not needed.
# What is there already and runs is left alone, so the script may be run as often as you like.
#
#   bin/redis-server bin/redis-sentinel bin/redis-cli bin/valkey-server bin/consul
#   bin/chromium
#   dynamodb-local/lib/*.jar
#
# Packages come from the Debian mirror that this machine's apt already uses, jars from the
# repository that this machine's Maven already uses.
set -euo pipefail

readonly repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly tools="${PILOTLIGHT_TEST_TOOLS:-$repository/.cache/tools}"
# Consul left Debian after this release; its binary needs no library of it.
readonly consul_suite=bullseye
readonly dynamodb_local_version=2.6.1

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install-tools: %s\n' "$*" >&2
    exit 1
}

runs() { [[ -x "$1" ]] && "$@" >/dev/null 2>&1; }

# --- Debian packages ------------------------------------------------------------------------

by_hand() {
    fail "$1
Put the missing programs there by hand (links will do): $tools/bin/{redis-server,redis-sentinel,redis-cli,valkey-server,consul,chromium}"
}

# The codename of this system, and the mirror that carries it.
find_mirror() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        by_hand 'apt-get is not here, so packages cannot be fetched.'
    codename="$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")"
    [[ -n "$codename" ]] || by_hand 'the codename of this system is not known.'
    mirror="$(apt-get indextargets --format '$(SITE)|$(CODENAME)|$(COMPONENT)' |
        awk -F'|' -v codename="$codename" '$2 == codename && $3 == "main" { print $1; exit }')"
    [[ -n "$mirror" ]] ||
        by_hand "apt knows no mirror of $codename main; run 'apt-get update' as root and try again."
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [[ -r "$keyring" ]] || by_hand 'the package debian-archive-keyring is missing.'
}

# apt with lists and caches of its own, so that the system's are untouched and root is not needed.
private_apt() {
    local command="$1"
    shift
    "$command" -qq -o Dir::State="$tools/apt/state" -o Dir::State::status=/var/lib/dpkg/status \
        -o Dir::Cache="$tools/apt/cache" -o Dir::Etc::SourceList="$tools/apt/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null \
        -o Dir::Etc::PreferencesParts=/dev/null -o APT::Sandbox::User="$(id -un)" "$@"
}

lists_ready=
update_lists() {
    [[ -z "$lists_ready" ]] || return 0
    find_mirror
    mkdir -p "$tools/apt/state/lists/partial" "$tools/apt/cache/archives/partial" "$tools/apt/debs"
    local suite
    for suite in "$codename" "$codename-backports" "$consul_suite"; do
        printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite"
    done | sort -u >"$tools/apt/sources.list"
    private_apt apt-get update
    lists_ready=yes
}

# The shared libraries that a package names directly and that a minimal system may lack.
libraries_of() {
    private_apt apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$1" |
        awk '$1 == "Depends:" && $2 ~ /^(lib(jemalloc|lzf|atomic|hiredis|lua)|lua-)/ { print $2 }'
}

# unpack TARGET PACKAGE...: fetches the packages and unpacks them under TARGET.
unpack() {
    local target="$1" deb
    shift
    mkdir -p "$target"
    rm -f "$tools"/apt/debs/*.deb
    (cd "$tools/apt/debs" && private_apt apt-get download "$@")
    for deb in "$tools"/apt/debs/*.deb; do
        dpkg -x "$deb" "$target"
        rm -f "$deb"
    done
}

# wrap NAME TARGET: a starter that finds the unpacked libraries and becomes the program, so that
# its process ID is the program's.
wrap() {
    local name="$1" target="$2" libraries
    libraries="$(cd "$tools/$target/usr" && find . -path './lib/*-linux-*' -prune -print -quit)"
    mkdir -p "$tools/bin"
    cat >"$tools/bin/$name" <<WRAPPER
#!/bin/sh
root="\$(dirname "\$0")/../$target"
export LD_LIBRARY_PATH="\$root/usr/${libraries:-lib}\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "\$root/usr/bin/$name" "\$@"
WRAPPER
    chmod +x "$tools/bin/$name"
}

install_redis() {
    if runs "$tools/bin/redis-server" --version && runs "$tools/bin/redis-cli" --version &&
        [[ -x "$tools/bin/redis-sentinel" ]]; then
        say 'redis: present'
        return
    fi
    update_lists
    local suite="$codename" package
    local -a wanted=()
    for package in redis-server redis-sentinel redis-tools $(libraries_of "redis-tools/$suite"); do
        wanted+=("$package/$suite")
    done
    unpack "$tools/redis" "${wanted[@]}"
    wrap redis-server redis
    wrap redis-sentinel redis
    wrap redis-cli redis
    runs "$tools/bin/redis-server" --version || fail 'redis-server was unpacked but does not start'
    say "redis: $("$tools/bin/redis-server" --version)"
}

install_valkey() {
    if runs "$tools/bin/valkey-server" --version; then
        say 'valkey: present'
        return
    fi
    update_lists
    local suite="$codename" package
    private_apt apt-cache madison valkey-server | grep -q "$codename/" ||
        suite="$codename-backports"
    local -a wanted=("valkey-server/$suite" "valkey-tools/$suite")
    for package in $(libraries_of "valkey-tools/$suite"); do
        wanted+=("$package")
    done
    unpack "$tools/valkey" "${wanted[@]}"
    wrap valkey-server valkey
    runs "$tools/bin/valkey-server" --version || fail 'valkey-server was unpacked but does not start'
    say "valkey: $("$tools/bin/valkey-server" --version)"
}

install_consul() {
    if runs "$tools/bin/consul" version; then
        say 'consul: present'
        return
    fi
    update_lists
    unpack "$tools/consul" "consul/$consul_suite"
    wrap consul consul
    runs "$tools/bin/consul" version || fail 'consul was unpacked but does not start'
    say "consul: $("$tools/bin/consul" version | head -n 1)"
}

# --- Chromium -------------------------------------------------------------------------------

# Whether a Chromium starts without a screen and runs the script of a page.
renders() {
    [[ -x "$1" ]] || return 1
    local home page='data:text/html,<script>document.write(6 * 7)</script>' result=1
    home="$(mktemp -d)"
    HOME="$home" timeout 60 "$1" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
        --user-data-dir="$home/data" --dump-dom "$page" 2>/dev/null | grep '>42<' >/dev/null && result=0
    rm -rf "$home"
    return "$result"
}

# Chromium needs some 240 packages, most of which a system has already: apt names those that this
# one lacks.
chromium_packages() {
    private_apt apt-get --simulate --no-install-recommends install "chromium/$codename" |
        awk '$1 == "Inst" { print $2 "/" suite }' suite="$codename"
}

# Not `wrap`: the libraries lie in several folders, and a system without fonts must find those that
# were unpacked.
wrap_chromium() {
    local libraries
    libraries="$(cd "$tools/chromium" && find -- * -name '*.so*' -printf '$root/%h\n' |
        sort -u | paste -s -d :)"
    cat >"$tools/chromium/fonts.conf" <<'FONTS'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir prefix="relative">usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
FONTS
    mkdir -p "$tools/bin"
    cat >"$tools/bin/chromium" <<WRAPPER
#!/bin/sh
root="\$(cd "\$(dirname "\$0")/../chromium" && pwd)"
export LD_LIBRARY_PATH="$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export FONTCONFIG_FILE="\$root/fonts.conf"
exec "\$root/usr/lib/chromium/chromium" "\$@"
WRAPPER
    chmod +x "$tools/bin/chromium"
}

install_chromium() {
    if renders "$tools/bin/chromium"; then
        say 'chromium: present'
        return
    fi
    rm -rf "$tools/bin/chromium" "$tools/chromium"
    local installed
    installed="$(command -v chromium || true)"
    if renders "$installed"; then
        mkdir -p "$tools/bin"
        ln -s "$installed" "$tools/bin/chromium"
        say "chromium: $installed"
        return
    fi
    update_lists
    local -a wanted
    mapfile -t wanted < <(chromium_packages)
    [[ ${#wanted[@]} -gt 0 ]] || fail 'apt does not know chromium, or what it depends on'
    unpack "$tools/chromium" "${wanted[@]}"
    wrap_chromium
    renders "$tools/bin/chromium" || fail 'chromium was unpacked but does not render a page'
    say "chromium: $("$tools/bin/chromium" --version)"
}

# --- DynamoDB Local -------------------------------------------------------------------------

install_dynamodb_local() {
    local home="$tools/dynamodb-local"
    command -v java >/dev/null || fail 'java 17 or newer is missing (Debian: openjdk-17-jre-headless)'
    if [[ -f "$home/lib/DynamoDBLocal-$dynamodb_local_version.jar" && -f "$home/complete" ]]; then
        say 'dynamodb-local: present'
        return
    fi
    command -v mvn >/dev/null || fail 'mvn is missing (Debian: maven)'
    rm -rf "$home"
    mkdir -p "$home"
    cat >"$home/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pilotlight.tests</groupId>
  <artifactId>dynamodb-local</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>com.amazonaws</groupId>
      <artifactId>DynamoDBLocal</artifactId>
      <version>$dynamodb_local_version</version>
    </dependency>
  </dependencies>
</project>
POM
    mvn --batch-mode --quiet --file "$home/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$home/lib"
    [[ -f "$home/lib/DynamoDBLocal-$dynamodb_local_version.jar" ]] ||
        fail 'Maven did not deliver DynamoDBLocal'
    touch "$home/complete"
    say "dynamodb-local: $dynamodb_local_version"
}

mkdir -p "$tools"
install_redis
install_valkey
install_consul
install_chromium
install_dynamodb_local
say "All databases and browsers of the tests are in $tools"
