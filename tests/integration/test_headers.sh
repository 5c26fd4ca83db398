#!/bin/sh
# test_headers.sh: each public header compiles alone, as strict C11 and as C++17
#
# With every compiler there is of gcc, clang, g++ and clang++. Exit status: 0, 1, or
# 77 when there is none.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
strict="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I$root/include"
failures=0 compiled=0

# compile COMPILER LANGUAGE STANDARD HEADER: the header twice, so that its guard is tried too
compile() {
	# shellcheck disable=SC2086 # a list of options
	printf '#include <%s>\n#include <%s>\ntypedef int not_empty;\n' "$4" "$4" | "$1" $strict -x "$2" "-std=$3" - &&
		compiled=$((compiled + 1)) && return
	failures=$((failures + 1))
	echo "FAILED: $4 with $1 as $3"
}

for header in $(cd "$root/include" && find . -name '*.h' | sed 's,^\./,,' | sort); do
	for compiler in gcc clang; do
		! command -v $compiler >/dev/null || compile $compiler c c11 "$header"
	done
	for compiler in g++ clang++; do
		! command -v $compiler >/dev/null || compile $compiler c++ c++17 "$header"
	done
done

# Every initialiser and constant, used as both languages allow.
use='#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>
int use(void);
int use(void)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options store = PGS_STORE_OPTIONS_INIT;
	pgs_db_options db = PGS_DB_OPTIONS_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_txn_options txn = PGS_TXN_OPTIONS_INIT;
	pgs_commit_options commit = PGS_COMMIT_OPTIONS_INIT;
	pgs_log_options log = PGS_LOG_OPTIONS_INIT;
	pgs_verify_options verify = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	pgs_local_options local = PGS_LOCAL_OPTIONS_INIT;
	pgs_fault_options fault = PGS_FAULT_OPTIONS_INIT;
	pgs_slice end = PGS_KV_TO_END;
	return (int)(err.code + (int)end.size + (int)(store.struct_size + db.struct_size + stat.struct_size +
		txn.struct_size + commit.struct_size + log.struct_size + verify.struct_size + report.struct_size +
		local.struct_size + fault.struct_size));
}
'
# use_all COMPILER LANGUAGE STANDARD
use_all() {
	# shellcheck disable=SC2086 # a list of options
	printf '%s' "$use" | "$1" $strict -x "$2" "-std=$3" - && compiled=$((compiled + 1)) && return
	failures=$((failures + 1))
	echo "FAILED: the initialisers with $1 as $3"
}

for compiler in gcc clang; do
	! command -v $compiler >/dev/null || use_all $compiler c c11
done
for compiler in g++ clang++; do
	! command -v $compiler >/dev/null || use_all $compiler c++ c++17
done

echo "$compiled compiled, $failures failed"
[ $failures -eq 0 ] || exit 1
[ $compiled -gt 0 ] || exit 77
