#!/bin/sh
# test_readme.sh: what the documents quote is what the files say, and what they point at is there
#
#   - the C block of README.md after "<!-- quoted: FILE -->" equals FILE, line by line
#   - so do those of docs/*.md
#   - relative links lead to files that exist
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-readme.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
failures=0 quotes=0 links=0

for document in README.md docs/*.md; do
	for file in $(sed -n 's/^<!-- quoted: \(.*\) -->$/\1/p' "$document"); do
		quotes=$((quotes + 1))
		awk -v want="<!-- quoted: $file -->" '
			$0 == want { armed = 1; next }
			armed && /^```/ { inside = !inside; if (!inside) exit; next }
			inside { print }' "$document" >"$work/quote"
		cmp -s "$work/quote" "$file" && continue
		failures=$((failures + 1))
		echo "FAILED: $document quotes $file otherwise than it is:"
		diff "$work/quote" "$file" | head -n 5
	done
	for link in $(grep -o '](\([^)#]*\)[^)]*)' "$document" | sed 's/^](//; s/[#)].*//' | sort -u); do
		case $link in
		http*) continue ;;
		esac
		links=$((links + 1))
		[ -e "$(dirname "$document")/$link" ] && continue
		failures=$((failures + 1))
		echo "FAILED: $document points at $link, which is not there"
	done
done

[ $quotes -gt 0 ] || { echo "FAILED: nothing is quoted any more"; exit 1; }
echo "$quotes quotes, $links links, $failures failed"
[ $failures -eq 0 ]
