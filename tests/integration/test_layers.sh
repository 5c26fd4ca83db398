#!/bin/sh
# test_layers.sh: each folder includes only what lies below it
#
#   util  <-  codec  <-  local_cache  <-  content  <-  txn  <-  maintain, follow  <-  lib itself
#   backends: their own folder, util, http (what those of servers share) and the public headers
#   examples: their own folder and the public headers
#
# An #include "x/y.h" is a header of folder x below lib or backends; #include "y.h"
# is one of the same folder. Public headers are in <>, and anyone may have them.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 1
failures=0 checked=0

# The quoted includes of a file.
included() {
	sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\(.*\)".*/\1/p' "$1"
}

# check FOLDER ALLOWED…: every file below FOLDER includes headers of ALLOWED folders only, or of its own
check() {
	folder=$1
	shift
	for file in $(find "$folder" $depth -name '*.[ch]' | sort); do
		for header in $(included "$file"); do
			checked=$((checked + 1))
			case $header in
			*/*) from=${header%/*} ;;
			*)
				[ -f "${file%/*}/$header" ] && continue
				from=none
				;;
			esac
			case " $* " in
			*" $from "*) ;;
			*)
				failures=$((failures + 1))
				echo "FAILED: $file includes \"$header\""
				;;
			esac
		done
	done
}

depth=
check lib/util util
check lib/codec codec util
check lib/local_cache local_cache codec util
check lib/content content local_cache codec util
check lib/txn txn content local_cache codec util
check lib/maintain maintain txn content local_cache codec util
check lib/follow follow txn content local_cache codec util
for backend in backends/*/; do
	name=$(basename "$backend")
	check "$backend" util http "$name"
done
check examples
check include
depth='-maxdepth 1'
check lib maintain follow txn content local_cache codec util backends
check backends etcd s3 local memory fault util

# Public headers include each other and the language's own, nothing else.
for file in $(find include -name '*.h'); do
	for header in $(sed -n 's/^#[[:space:]]*include[[:space:]]*<\(.*\)>.*/\1/p' "$file"); do
		checked=$((checked + 1))
		case $header in
		pagestore/*) [ -f "include/$header" ] && continue ;;
		std*.h) continue ;;
		esac
		failures=$((failures + 1))
		echo "FAILED: $file includes <$header>"
	done
done

[ $checked -gt 100 ] || { echo "FAILED: only $checked includes were found"; exit 1; }
echo "$checked includes, $failures failed"
[ $failures -eq 0 ]
