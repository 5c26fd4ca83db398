/* See bank.h. */
#include "support/bank.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/stores.h"
#include "util/clock.h"

int64_t bank_balance(const void *page)
{
	int64_t balance;
	memcpy(&balance, page, sizeof balance);
	return balance;
}

int bank_fill(pgs_db *db, pgs_error *err)
{
	uint8_t page[BANK_PAGE_SIZE];
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	int result = pgs_begin(&txn, db, &options, err);
	if (result != PGS_OK)
		return result;
	for (uint64_t i = 0; i < BANK_ACCOUNTS && result == PGS_OK; i++) {
		int64_t start = BANK_START;
		fill_page(page, (i + 1) * 256);
		memcpy(page, &start, sizeof start);
		result = pgs_write(txn, i, page);
	}
	if (result == PGS_OK)
		return pgs_commit(txn, NULL, NULL, err);
	pgs_abort(txn);
	return result;
}

static void bank_fail(bank_worker *w, const char *what, const pgs_error *err)
{
	snprintf(w->failure, sizeof w->failure, "%s: %s %s", what, pgs_error_name(err->code), err->message);
}

/* Nothing happened, and may be tried again. */
static bool bank_passes(const bank_worker *w, int result)
{
	return result == PGS_ECONFLICT ||
		(w->servers && (result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EBUSY));
}

/* The sum of the snapshot at a revision (0: the latest), or -1: with a failure, or not now. */
static int64_t bank_total_at(bank_worker *w, uint64_t revision, uint64_t *revision_out)
{
	static _Thread_local uint8_t pages[BANK_ACCOUNTS][BANK_PAGE_SIZE];
	uint64_t numbers[BANK_ACCOUNTS];
	void *dst[BANK_ACCOUNTS];
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	int64_t total = 0;
	options.at_revision = revision;
	options.freshness = revision ? PGS_LATEST : w->freshness;
	options.bound_ms = w->bound_ms;
	for (uint64_t i = 0; i < BANK_ACCOUNTS; i++) {
		numbers[i] = i;
		dst[i] = pages[i];
	}
	int result = pgs_begin(&txn, w->db, &options, &err);
	if (result != PGS_OK) {
		if (!bank_passes(w, result))
			bank_fail(w, "begin to read", &err);
		return -1;
	}
	if (revision_out)
		*revision_out = pgs_txn_revision(txn);
	result = pgs_read_many(txn, numbers, BANK_ACCOUNTS, dst);
	if (result != PGS_OK && !bank_passes(w, result))
		bank_fail(w, "read all", pgs_txn_error(txn));
	for (uint64_t i = 0; result == PGS_OK && i < BANK_ACCOUNTS; i++)
		total += bank_balance(pages[i]);
	pgs_abort(txn);
	return result == PGS_OK ? total : -1;
}

int64_t bank_total(bank_worker *w)
{
	return bank_total_at(w, 0, NULL);
}

void bank_check_total(bank_worker *w, uint64_t revision, uint64_t *revision_out)
{
	int64_t total = bank_total_at(w, revision, revision_out);
	w->snapshots += total >= 0;
	if (total >= 0 && total != (int64_t)BANK_ACCOUNTS * BANK_START)
		snprintf(w->failure, sizeof w->failure, "the snapshot at %llu holds %lld", (unsigned long long)revision,
			(long long)total);
}

static int bank_change(pgs_txn *txn, uint64_t page_no, int64_t by)
{
	uint8_t page[BANK_PAGE_SIZE];
	int result = pgs_read(txn, page_no, page);
	int64_t balance = bank_balance(page) + by;
	memcpy(page, &balance, sizeof balance);
	return result == PGS_OK ? pgs_write(txn, page_no, page) : result;
}

/* Until it is known. */
static int bank_settle(bank_worker *w, const pgs_commit_token *token)
{
	pgs_error err = PGS_ERROR_INIT;
	int status = 0, result;
	do
		result = pgs_commit_status(w->db, token, &status, NULL, &err);
	while (w->servers && (result == PGS_EUNKNOWN || bank_passes(w, result)));
	if (result != PGS_OK)
		bank_fail(w, "commit status", &err);
	return result != PGS_OK ? result : status == PGS_COMMIT_HAPPENED ? PGS_OK : PGS_ECONFLICT;
}

static int bank_commit(bank_worker *w, pgs_txn *txn)
{
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_commit_token token;
	char note[64];
	snprintf(note, sizeof note, "%u.%u-%llu", w->number, w->life, (unsigned long long)++w->sent);
	options.note = note;
	options.note_size = strlen(note);
	options.token = &token;
	int result = pgs_commit(txn, &options, NULL, &err);
	if (result == PGS_EUNKNOWN)
		return bank_settle(w, &token);
	if (result != PGS_OK && !bank_passes(w, result))
		bank_fail(w, "commit", &err);
	return result;
}

/* One transfer; PGS_OK, what passes, or a failure. */
static int bank_transfer(bank_worker *w, uint64_t random)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	uint64_t from = random % BANK_ACCOUNTS, to = (from + 1 + random / 64 % (BANK_ACCOUNTS - 1)) % BANK_ACCOUNTS;
	options.write = true;
	options.isolation = w->isolation;
	int result = pgs_begin(&txn, w->db, &options, &err);
	if (result != PGS_OK) {
		if (!bank_passes(w, result))
			bank_fail(w, "begin", &err);
		return result;
	}
	result = bank_change(txn, from, -(int64_t)(random / 4096 % 10 + 1));
	if (result == PGS_OK)
		result = bank_change(txn, to, (int64_t)(random / 4096 % 10 + 1));
	if (result == PGS_OK)
		result = bank_change(txn, BANK_WORKER_PAGE + w->number, 1);
	if (result == PGS_OK)
		return bank_commit(w, txn);
	if (!bank_passes(w, result))
		bank_fail(w, "transfer", pgs_txn_error(txn));
	pgs_abort(txn);
	return result;
}

static void bank_acknowledge(bank_worker *w)
{
	w->committed++;
	if (w->acks && (fwrite(&w->sent, sizeof w->sent, 1, w->acks) != 1 || fflush(w->acks) != 0))
		snprintf(w->failure, sizeof w->failure, "cannot write what was committed");
}

void bank_run(bank_worker *w)
{
	uint64_t random = (w->number + 1000 * w->life) * 0x9e3779b97f4a7c15 + 12345;
	while (!w->failure[0] && pgs__now_ms() < w->end_ms) {
		random = random * 6364136223846793005 + 1442695040888963407;
		int result = bank_transfer(w, random >> 11);
		if (result == PGS_OK)
			bank_acknowledge(w);
		else if (result == PGS_ECONFLICT)
			w->conflicts++;
		if (random >> 62 == 0 && !w->failure[0])
			bank_check_total(w, 0, NULL);
	}
}

/* --- workers that are processes ----------------------------------------------------------- */

static void become_writer(const char *const arguments[], const char *folder, const char *acks_path)
{
	char path[1024];
	int acks = open(acks_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(path, sizeof path, "%s/helper_writer", folder);
	if (acks >= 0 && dup2(acks, STDOUT_FILENO) >= 0)
		execv(path, (char *const *)arguments);
	_exit(127);
}

void bank_start(bank_life *l, const char *folder, const char *url, uint32_t run_ms, bool servers, uint32_t isolation)
{
	char number[16], life[16], ms[16];
	snprintf(number, sizeof number, "%u", l->number);
	snprintf(life, sizeof life, "%u", l->life);
	snprintf(ms, sizeof ms, "%u", run_ms);
	const char *const arguments[] = {"helper_writer", "bank", url, number, life, ms,
		isolation == PGS_SNAPSHOT ? "snapshot" : "serializable", servers ? "servers" : "local", NULL};
	fflush(NULL);
	l->pid = fork();
	if (l->pid == 0)
		become_writer(arguments, folder, l->acks_path);
}

pid_t bank_follow(const char *folder, const char *url, uint32_t run_ms, bool servers)
{
	char ms[16];
	snprintf(ms, sizeof ms, "%u", run_ms);
	const char *const arguments[] = {"helper_writer", "follow", url, ms, servers ? "servers" : "local", NULL};
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		become_writer(arguments, folder, "/dev/null");
	return pid;
}

bool bank_read_acks(bank_life *l)
{
	struct stat st;
	FILE *file = fopen(l->acks_path, "rb");
	bool good = file && fstat(fileno(file), &st) == 0;
	if (good) {
		l->count = (size_t)st.st_size / sizeof *l->acks;
		l->acks = calloc(l->count + 1, sizeof *l->acks);
		good = fread(l->acks, sizeof *l->acks, l->count, file) == l->count;
	}
	if (file)
		fclose(file);
	return good;
}

/* --- afterwards: the changelog against what was acknowledged ----------------------------- */

/* Where transfer n is among the acknowledged ones; l->count: it is not. */
static size_t find_ack(const bank_life *l, uint64_t n)
{
	size_t low = 0, high = l->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (l->acks[middle] < n)
			low = middle + 1;
		else
			high = middle;
	}
	return low < l->count && l->acks[low] == n ? low : l->count;
}

static bank_life *find_life(const bank_audit *a, unsigned number, unsigned life)
{
	for (size_t i = 0; i < a->count; i++)
		if (a->lives[i].number == number && a->lives[i].life == life)
			return &a->lives[i];
	return NULL;
}

static int bank_audit_fail(bank_audit *a, const char *note, const char *what)
{
	snprintf(a->failure, sizeof a->failure, "transfer %s %s", note, what);
	return -1;
}

static int bank_audit_entry(void *ctx, const pgs_log_entry *entry)
{
	bank_audit *a = ctx;
	char note[64] = "";
	unsigned number, life;
	unsigned long long n;
	if (entry->note_size == 0 || entry->note_size >= sizeof note)
		return 0;
	memcpy(note, entry->note, entry->note_size);
	if (sscanf(note, "%u.%u-%llu", &number, &life, &n) != 3)
		return bank_audit_fail(a, note, "is none");
	bank_life *l = find_life(a, number, life);
	if (!l)
		return bank_audit_fail(a, note, "is nobody's");
	size_t at = find_ack(l, n);
	uint64_t last = l->count ? l->acks[l->count - 1] : 0;
	if (at == l->count && l->killed && n > last && l->extra++ == 0)
		return 0; /* killed between the commit and its acknowledgement */
	if (at == l->count)
		return bank_audit_fail(a, note, "is in the changelog, and was not acknowledged");
	if (l->logged[at])
		return bank_audit_fail(a, note, "is in the changelog twice");
	l->logged[at] = true;
	l->seen++;
	return 0;
}

void bank_audit_log(bank_audit *a, pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	for (size_t i = 0; i < a->count; i++)
		a->lives[i].logged = calloc(a->lives[i].count + 1, sizeof(bool));
	int result = pgs_log(db, NULL, bank_audit_entry, a, &err);
	if (result != PGS_OK && !a->failure[0])
		snprintf(a->failure, sizeof a->failure, "pgs_log: %s", err.message);
	for (size_t i = 0; i < a->count; i++) {
		bank_life *l = &a->lives[i];
		if (l->seen != l->count && !a->failure[0])
			snprintf(a->failure, sizeof a->failure, "worker %u.%u: %zu transfers of %zu are in the changelog",
				l->number, l->life, l->seen, l->count);
		free(l->logged);
		l->logged = NULL;
	}
}
