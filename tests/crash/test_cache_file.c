/* Cache files: processes that are killed and stopped, damage at any place, full disks. Whatever happens, what the file
 * gives is right, or it gives nothing. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codec/pointer.h"
#include "support/disk_cache.h"
#include "support/scratch.h"
#include "support/testing.h"
#include "util/clock.h"

#define SIZE (8u << 20)
#define PAGES 50
#define CONTENTS 20000

static uint64_t random_state = 4711;

static uint64_t roll(uint64_t below)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (random_state >> 33) % below;
}

/* --- a history that everybody knows --------------------------------------------------------- */

/* Revision r puts content r at page r % PAGES, but deletes the page when r is a multiple of 7. */
static uint64_t content_at(uint64_t page_no, uint64_t revision)
{
	uint64_t last = revision - (revision + PAGES - page_no) % PAGES;
	return last == 0 || last > revision || last % 7 == 0 ? DISK_ABSENT : last;
}

typedef struct sight {
	uint64_t content;
} sight;

static void take(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	sight *s = (sight *)ctx + index;
	pgs__pointer pointer;
	s->content = answer == PGS__MIRROR_ABSENT ? DISK_ABSENT : DISK_UNKNOWN;
	if (answer == PGS__MIRROR_PRESENT && pgs__pointer_decode(pair->value, 0, &pointer) == PGS_OK)
		s->content = pgs__load_u32be(pointer.id.bytes + 4);
}

/* Whether everything the mirror says is right; *known counts what it says. */
static bool mirror_right(disk *d, unsigned *known)
{
	pgs__key keys[PAGES];
	pgs_slice slices[PAGES];
	sight seen[PAGES];
	uint64_t sequence = 0;
	for (uint64_t i = 0; i < PAGES; i++) {
		keys[i] = pgs__key_page(disk_prefix, i);
		slices[i] = pgs__key_slice(&keys[i]);
		seen[i].content = DISK_UNKNOWN;
	}
	if (pgs__mirror_get(d->db, 0, slices, PAGES, take, seen, &sequence, NULL) != PGS_OK)
		return true;
	for (uint64_t i = 0; i < PAGES; i++) {
		if (seen[i].content == DISK_UNKNOWN)
			continue;
		++*known;
		if (seen[i].content != content_at(i, sequence)) {
			fprintf(stderr, "page %llu at %llu: content %lld, not %lld\n", (unsigned long long)i,
				(unsigned long long)sequence, (long long)seen[i].content,
				(long long)content_at(i, sequence));
			return false;
		}
	}
	return true;
}

/* Apply up to `count` more revisions, or load when there is none. */
static void follow(disk *d, uint64_t count)
{
	pgs__mirror_state s;
	if (pgs__mirror_state_get(d->db, &s, NULL) != PGS_OK)
		return;
	if (s.sequence == 0) {
		pgs__key first = pgs__key_kind(disk_prefix, 'p'), end = pgs__key_kind_end(disk_prefix, 'p');
		disk_pair made[PAGES];
		pgs_kv_pair pairs[PAGES];
		size_t n = 0;
		uint64_t at = 1000, soon = pgs__now_ms() + 2000;
		for (uint64_t i = 0; i < PAGES; i++) {
			uint64_t content = content_at(i, at);
			if (content == DISK_ABSENT)
				continue;
			disk_pair_make(&made[n], i, content, content);
			pairs[n] = made[n].pair;
			n++;
		}
		if (pgs__mirror_load_begin(d->db, at, soon, NULL) == PGS_OK &&
		    pgs__mirror_load_range(d->db, at, pgs__key_slice(&first), pgs__key_slice(&end), pairs, n, soon,
					   NULL) == PGS_OK)
			pgs__mirror_load_end(d->db, at, soon, NULL);
		return;
	}
	disk_pair made[8];
	pgs__mirror_change changes[8];
	count = count < 8 ? count : 8;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = s.sequence + 1 + i;
		disk_pair_make(&made[i], r % PAGES, r, r);
		changes[i] = (pgs__mirror_change){.pair = made[i].pair, .deleted = r % 7 == 0};
	}
	uint64_t horizon = s.sequence > 100 ? s.sequence - 100 : 0;
	pgs__mirror_apply(d->db, s.sequence, s.sequence + count, horizon, changes, count, pgs__now_ms() + 2000, NULL, NULL);
}

static size_t size_of(uint64_t n)
{
	return 50 + n * 37 % 3000;
}

static void use(disk *d, unsigned rounds, unsigned *damaged)
{
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t n = roll(CONTENTS);
		if (!disk_has(d, n, damaged))
			disk_put(d, n, size_of(n));
	}
}

/* --- kill -9 ---------------------------------------------------------------------------------- */

/* In a child, until it is killed: use everything, and exit when something is wrong. */
static void worker(uint64_t seed)
{
	random_state = seed;
	for (;;) {
		disk d;
		disk_open(&d, scratch_path("cache"), SIZE, 1);
		if (d.warnings)
			_exit(3); /* started over: what the processes left was not right */
		for (unsigned i = 0, end = (unsigned)roll(100); i < end; i++) {
			unsigned known = 0, damaged = 0;
			use(&d, 20, &damaged);
			follow(&d, 1 + roll(8));
			if (!mirror_right(&d, &known) || damaged)
				_exit(4);
		}
		if (d.warnings > 1) /* a process that died in the middle of loading may be met */
			_exit(5);
		disk_close(&d);
	}
}

static pid_t start(uint64_t seed)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		worker(seed);
		_exit(0);
	}
	return pid;
}

static void reap(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("a process ended by itself: exit code %d, signal %d", WEXITSTATUS(status), WTERMSIG(status));
}

static void test_cache_file__processes_may_be_killed(void **state)
{
	(void)state;
	enum { PROCESSES = 4, KILLS = 50 };
	pid_t pids[PROCESSES];
	disk d;
	for (uint64_t i = 0; i < PROCESSES; i++)
		pids[i] = start(i);
	for (uint64_t i = 0; i < KILLS; i++) {
		pid_t *victim = &pids[roll(PROCESSES)];
		pgs__sleep_ms((uint32_t)(5 + roll(60)), 0);
		kill(*victim, SIGKILL);
		reap(*victim);
		*victim = start(100 + i);
	}
	for (int i = 0; i < PROCESSES; i++) {
		kill(pids[i], SIGKILL);
		reap(pids[i]);
	}
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	assert_int_equal(d.warnings, 0);
	unsigned known = 0, damaged = 0, found = 0;
	assert_true(mirror_right(&d, &known));
	for (uint64_t n = 0; n < CONTENTS; n++)
		found += disk_has(&d, n, &damaged);
	pgs__mirror_state s;
	assert_int_equal(pgs__mirror_state_get(d.db, &s, NULL), PGS_OK);
	print_message("revision %llu, %u contents, %.1f MiB of %.1f\n", (unsigned long long)s.sequence, found,
		      (double)disk_stat(&d).used_bytes / (1 << 20), (double)SIZE / (1 << 20));
	assert_int_equal(damaged, 0);
	assert_int_equal(disk_stat(&d).bad, 0);
	assert_true(s.sequence > 1000 && found > 500);
	disk_put(&d, CONTENTS + 1, 100); /* and it can be written */
	disk_flush(&d);
	follow(&d, 3);
	assert_int_equal(pgs__mirror_sequence(d.db), s.sequence + 3);
	disk_close(&d);
}

static void test_cache_file__the_follower_s_lock_dies_with_it(void **state)
{
	(void)state;
	int ready[2];
	char byte;
	disk d;
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		disk_open(&d, scratch_path("cache"), SIZE, 1);
		byte = pgs__mirror_follow_lock(d.db) ? 'y' : 'n';
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(byte, 'y');
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	assert_false(pgs__mirror_follow_lock(d.db));
	kill(pid, SIGKILL);
	reap(pid);
	assert_true(pgs__mirror_follow_lock(d.db));
	disk_close(&d);
	close(ready[0]);
	close(ready[1]);
}

/* Whatever a stopped process holds, the others get by their deadlines, and can read. */
static void test_cache_file__processes_may_be_stopped(void **state)
{
	(void)state;
	disk d;
	unsigned busy = 0, damaged = 0, known = 0;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	pid_t pid = start(1);
	for (uint64_t i = 0; i < 40; i++) {
		pgs__sleep_ms((uint32_t)(1 + roll(8)), 0);
		kill(pid, SIGSTOP);
		uint64_t began = pgs__now_ms();
		disk_put(&d, CONTENTS + i, 100);
		busy += pgs__disk_flush(d.cache, pgs__now_ms() + 20, NULL) == PGS_EBUSY;
		use(&d, 5, &damaged);
		assert_true(mirror_right(&d, &known));
		assert_true(pgs__now_ms() - began < 20000); /* what it holds, it would hold for ever */
		kill(pid, SIGCONT);
	}
	kill(pid, SIGKILL);
	reap(pid);
	disk_flush(&d);
	print_message("%u of 40 times the file could not be had\n", busy);
	assert_int_equal(damaged, 0);
	disk_close(&d);
}

/* --- after fork() -------------------------------------------------------------------------------- */

static void test_cache_file__a_forked_child_goes_without(void **state)
{
	(void)state;
	disk d;
	int status;
	unsigned known = 0;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_put(&d, 1, 1000);
	disk_flush(&d);
	follow(&d, 1);
	pid_t pid = fork();
	if (pid == 0) {
		bool good = !disk_has(&d, 1, NULL) && mirror_right(&d, &known) && known == 0 &&
			    !pgs__mirror_follow_lock(d.db);
		disk_close(&d);
		_exit(good ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(disk_has(&d, 1, NULL));
	assert_true(pgs__mirror_follow_lock(d.db)); /* its locks are still there */
	disk_close(&d);
}

/* --- damage ----------------------------------------------------------------------------------------- */

typedef struct image {
	uint8_t *data, *state;
	size_t size, state_size;
} image;

static uint8_t *load_file(const char *path, size_t *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	*size = (size_t)st.st_size;
	uint8_t *bytes = malloc(*size);
	assert_true(read(fd, bytes, *size) == (ssize_t)*size);
	close(fd);
	return bytes;
}

static image make_image(void)
{
	image i;
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	follow(&d, 1);
	for (int r = 0; r < 100; r++)
		follow(&d, 8);
	for (uint64_t n = 0; n < 600; n++)
		disk_put(&d, n, size_of(n));
	disk_close(&d);
	i.data = load_file(scratch_path("cache"), &i.size);
	while (i.size > 4096 && memcmp(i.data + i.size - 4096, i.data + i.size - 2048, 2048) == 0 && !i.data[i.size - 1])
		i.size -= 4096; /* what was never written */
	print_message("a file of %zu pages\n", i.size / 4096);
	i.state = load_file(scratch_path("cache-state"), &i.state_size);
	return i;
}

static void free_image(image *i)
{
	free(i->data);
	free(i->state);
}

enum { RIGHT = 0, WRONG = 10, EMPTY = 11 };

/* Read and write everything in a child. */
static int use_image(const image *i)
{
	int status;
	scratch_write(scratch_path("cache"), i->data, i->size);
	scratch_write(scratch_path("cache-state"), i->state, i->state_size);
	pid_t pid = fork();
	if (pid == 0) {
		disk d;
		unsigned known = 0, damaged = 0, found = 0;
		for (int signal_no = 1; signal_no < 32; signal_no++) /* cmocka's would go on with the tests, here */
			signal(signal_no, SIG_DFL);
		int null = open("/dev/null", O_WRONLY);
		disk_open(&d, scratch_path("cache"), SIZE, 1);
		bool right = mirror_right(&d, &known);
		dup2(null, 2); /* LMDB's last words */
		for (int round = 0; round < 2; round++) {
			for (uint64_t n = 0; n < 600; n++) {
				unsigned before = damaged;
				pgs__page_id id = disk_id(n);
				found += disk_has(&d, n, &damaged);
				if (damaged != before)
					pgs__disk_drop(d.db, &id);
			}
			use(&d, 300, &damaged);
			for (int r = 0; r < 20; r++)
				follow(&d, 8);
			right &= mirror_right(&d, &known);
		}
		disk_close(&d);
		_exit(!right ? WRONG : found ? RIGHT : EMPTY);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Of a mirrored pointer: key, record head and pointer up to the id; id and check. */
#define BEFORE (15 + 6)
#define BEHIND (PGS__ID_HASH_SIZE + 4)

static void test_cache_file__flipped_bits_in_values_are_found(void **state)
{
	(void)state;
	disk_pair pair;
	image good = make_image();
	disk_pair_make(&pair, 0, content_at(1, 1800), 0);
	const uint8_t *needle = (const uint8_t *)pair.pair.value.data + 1; /* the id in a pointer */
	unsigned flips = 0;
	for (size_t at = 0; at + PGS__ID_HASH_SIZE < good.size; at++) {
		if (memcmp(good.data + at, needle, PGS__ID_HASH_SIZE) != 0)
			continue;
		for (size_t i = at - BEFORE; i < at + BEHIND; i++) { /* every copy there is */
			image bad = good;
			bad.data = malloc(good.size);
			memcpy(bad.data, good.data, good.size);
			bad.data[i] ^= (uint8_t)(1u << roll(8));
			int result = use_image(&bad);
			free(bad.data);
			flips++;
			if (result != RIGHT && result != EMPTY)
				fail_msg("a flipped bit at byte %zu (id at %zu): %d", i, at, result);
		}
	}
	print_message("%u flips\n", flips);
	assert_true(flips >= BEFORE + BEHIND);
	free_image(&good);
}

/* Flip one bit in each copy of a page's key that the file has, as the mirror stores it. */
static unsigned flip_key(uint64_t page_no)
{
	size_t size;
	unsigned flips = 0;
	pgs__key key = pgs__key_page(disk_prefix, page_no);
	const size_t tail = key.size - PGS__PREFIX_SIZE;
	uint8_t *data = load_file(scratch_path("cache"), &size);
	int fd = open(scratch_path("cache"), O_WRONLY);
	for (size_t at = 0; at + tail <= size; at++) {
		if (memcmp(data + at, key.bytes + PGS__PREFIX_SIZE, tail) != 0)
			continue;
		size_t where = at + tail - 1 - roll(4);
		uint8_t byte = data[where] ^ (uint8_t)(1u << roll(8));
		assert_int_equal(pwrite(fd, &byte, 1, (off_t)where), 1);
		flips++;
	}
	close(fd);
	free(data);
	return flips;
}

/* After the mirror was held against its digest: what is damaged then must not seem absent. */
static void test_cache_file__flipped_bits_in_keys_are_no_absence(void **state)
{
	(void)state;
	enum { COUNT = 300 };
	unsigned flips = 0, known = 0;
	for (uint64_t round = 0; round < 40; round++) {
		disk d;
		disk_open(&d, scratch_path("cache"), SIZE, 1);
		disk_load(&d, COUNT, 100 + round);
		assert_int_equal(disk_page(&d, 0, 0), 0);
		flips += flip_key(roll(COUNT));
		for (uint64_t i = 0; i < COUNT; i++) {
			uint64_t content = disk_page(&d, i, 0);
			known += content == i;
			if (content != i && content != DISK_UNKNOWN)
				fail_msg("page %llu has content %lld", (unsigned long long)i, (long long)content);
		}
		disk_close(&d);
	}
	print_message("%u flips; %u answers\n", flips, known);
	assert_true(flips >= 40 && known > 0);
}

static void damage(image *bad)
{
	uint64_t kind = roll(5);
	size_t at = roll(bad->size);
	if (kind == 0) {
		size_t size = 1 + roll(4096);
		memset(bad->data + at, 0, at + size > bad->size ? bad->size - at : size);
	} else if (kind == 1) {
		bad->state[roll(4096)] ^= (uint8_t)(1u << roll(8));
	} else if (kind == 2) { /* LMDB's own numbers: heads of pages, and where their entries are */
		for (uint64_t flips = 1 + roll(4); flips; flips--)
			bad->data[roll(bad->size / 4096) * 4096 + roll(48)] ^= (uint8_t)(1u << roll(8));
	} else {
		for (uint64_t flips = 1 + roll(4); flips; flips--)
			bad->data[roll(bad->size)] ^= (uint8_t)(1u << roll(8));
	}
}

static void test_cache_file__damage_anywhere_never_gives_a_wrong_page(void **state)
{
	(void)state;
	enum { ROUNDS = 400 };
	unsigned right = 0, empty = 0, died = 0;
	image good = make_image();
	for (int i = 0; i < ROUNDS; i++) {
		image bad = good;
		bad.data = malloc(good.size);
		bad.state = malloc(good.state_size);
		memcpy(bad.data, good.data, good.size);
		memcpy(bad.state, good.state, good.state_size);
		damage(&bad);
		int result = use_image(&bad);
		free_image(&bad);
		if (result == WRONG)
			fail_msg("round %d: a wrong page", i);
		right += result == RIGHT;
		empty += result == EMPTY;
		died += result != RIGHT && result != EMPTY;
		if (result != RIGHT && result != EMPTY)
			print_message("round %d: ended by %d\n", i, result);
	}
	assert_true(died * 100 <= ROUNDS); /* LMDB trusts its file: lib/local_cache/lmdb_page.h */
	print_message("of %d damages %u were harmless or repaired, %u started the file over, %u ended the process\n", ROUNDS,
		      right, empty, died);
	free_image(&good);
}

/* --- a full disk --------------------------------------------------------------------------------------- */

static void skip_because(const char *why)
{
	fprintf(stderr, "# skipped: %s\n", why);
	const char *ci = getenv("CI");
	if (ci && strcmp(ci, "true") == 0)
		fail_msg("skipped in CI: %s", why);
	skip();
}

static void on_full_disk(void)
{
	disk d;
	char filler[200];
	static const char block[1 << 16];
	unsigned known = 0, damaged = 0, found = 0;
	disk_open(&d, scratch_path("disk/cache"), 64u << 20, 1);
	for (unsigned i = 0; i < 60; i++) {
		use(&d, 50, &damaged);
		follow(&d, 8);
	}
	snprintf(filler, sizeof filler, "%s", scratch_path("disk/filler"));
	int fd = open(filler, O_WRONLY | O_CREAT, 0666);
	while (write(fd, block, sizeof block) > 0)
		;
	close(fd);
	for (unsigned i = 0; i < 100; i++) {
		use(&d, 100, &damaged);
		follow(&d, 8);
		assert_true(mirror_right(&d, &known));
	}
	pgs__disk_stat s = disk_stat(&d);
	print_message("disk full: %llu evicted, %llu calls failed, %llu contents dropped; file %.1f MiB\n",
		      (unsigned long long)s.evictions, (unsigned long long)s.errors, (unsigned long long)s.dropped,
		      (double)s.file_bytes / (1 << 20));
	assert_false(s.failed);
	assert_true(s.evictions > 0); /* it goes on with what it has */
	uint64_t before = s.puts;
	use(&d, 500, &damaged);
	pgs__disk_flush(d.cache, pgs__now_ms() + 1000, NULL);
	assert_true(disk_stat(&d).puts > before);
	disk_close(&d);
	unlink(filler);
	disk_open(&d, scratch_path("disk/cache"), 64u << 20, 1);
	assert_int_equal(d.warnings, 0);
	for (uint64_t n = 0; n < CONTENTS; n++)
		found += disk_has(&d, n, &damaged);
	assert_true(found > 100);
	assert_int_equal(damaged, 0);
	assert_true(mirror_right(&d, &known));
	disk_close(&d);
}

static void test_cache_file__a_full_disk_makes_it_small(void **state)
{
	(void)state;
	assert_int_equal(mkdir(scratch_path("disk"), 0777), 0);
	if (mount("tmpfs", scratch_path("disk"), "tmpfs", 0, "size=8m") != 0)
		skip_because("mounting a tmpfs of 8 MiB");
	on_full_disk();
	umount2(scratch_path("disk"), MNT_DETACH);
}

/* There is not even room for the state: no cache. */
static void test_cache_file__a_disk_without_room_is_refused(void **state)
{
	(void)state;
	pgs__disk_cache *cache;
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(mkdir(scratch_path("disk"), 0777), 0);
	if (mount("tmpfs", scratch_path("disk"), "tmpfs", 0, "size=16k") != 0)
		skip_because("mounting a tmpfs of 16 KiB");
	pgs__disk_cache_options o = {.path = scratch_path("disk/cache"), .size_bytes = 64u << 20};
	assert_int_equal(pgs__disk_cache_open(&cache, &o, &err), PGS_ENOSPC);
	umount2(scratch_path("disk"), MNT_DETACH);
}

static int tear_down_disk(void **state)
{
	umount2(scratch_path("disk"), MNT_DETACH);
	return scratch_tear_down(state);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_cache_file__##name, scratch_set_up, tear_down_disk)
	const struct CMUnitTest tests[] = {
		CASE(processes_may_be_killed),
		CASE(the_follower_s_lock_dies_with_it),
		CASE(processes_may_be_stopped),
		CASE(a_forked_child_goes_without),
		CASE(flipped_bits_in_values_are_found),
		CASE(flipped_bits_in_keys_are_no_absence),
		CASE(damage_anywhere_never_gives_a_wrong_page),
		CASE(a_full_disk_makes_it_small),
		CASE(a_disk_without_room_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
