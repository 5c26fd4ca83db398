/* A real etcd for tests. */
#include "support/etcd_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore/backends.h>

#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define MEMBERS_MAX 3
#define START_MS 30000

typedef struct member {
	pid_t pid; /* 0: not running */
	unsigned client_port, peer_port, health_port;
	char endpoint[32];
} member;

struct etcd_server {
	etcd_setup setup;
	char folder[64];
	member members[MEMBERS_MAX];
	char endpoints[MEMBERS_MAX * 32];
	char cluster[MEMBERS_MAX * 64];
	char authorization[200]; /* a header, or "" */
};

/* --- is there one ------------------------------------------------------------------ */

static bool find_program(const char *name)
{
	char path[4096];
	const char *at = getenv("PATH");
	while (at && *at) {
		size_t size = strcspn(at, ":");
		snprintf(path, sizeof path, "%.*s/%s", (int)size, at, name);
		if (access(path, X_OK) == 0)
			return true;
		at += size + (at[size] == ':');
	}
	return false;
}

bool etcd_available(void)
{
	const char *ci = getenv("CI");
	const char *missing = !find_program("etcd") ? "etcd" : !find_program("openssl") ? "openssl" : NULL;
	if (!missing)
		return true;
	fprintf(stderr, "SKIPPED: there is no %s on the PATH (Debian: etcd-server, openssl)\n", missing);
	if (ci && !strcmp(ci, "true")) {
		fprintf(stderr, "FAILED: with CI=true, nothing may be skipped\n");
		exit(1);
	}
	return false;
}

/* --- sockets -------------------------------------------------------------------------- */

static int local_socket(unsigned port, struct sockaddr_in *address)
{
	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

unsigned etcd_free_port(void)
{
	struct sockaddr_in address;
	socklen_t size = sizeof address;
	int fd = local_socket(0, &address);
	unsigned port = 0;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
		getsockname(fd, (struct sockaddr *)&address, &size) == 0)
		port = ntohs(address.sin_port);
	close(fd);
	return port;
}

/* Sends `request`, reads to the end or until `size` is full. */
static bool exchange(unsigned port, const char *request, char *answer, size_t size)
{
	struct sockaddr_in address;
	struct timeval patience = {30, 0};
	int fd = local_socket(port, &address);
	size_t used = 0, length = strlen(request);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	bool good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
		send(fd, request, length, MSG_NOSIGNAL) == (ssize_t)length;
	while (good && used < size - 1) {
		ssize_t got = recv(fd, answer + used, size - 1 - used, 0);
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	answer[used] = '\0';
	close(fd);
	return good && used > 0;
}

int etcd_post(const etcd_server *etcd, size_t which, const char *path, const char *body, char *answer, size_t size)
{
	char request[8192], raw[8192];
	int status = 0;
	snprintf(request, sizeof request,
		"POST %s HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
		path, etcd->authorization, strlen(body), body);
	if (!exchange(etcd->members[which].client_port, request, raw, sizeof raw))
		return 0;
	const char *content = strstr(raw, "\r\n\r\n");
	sscanf(raw, "HTTP/%*s %d", &status);
	snprintf(answer, size, "%s", content ? content + 4 : "");
	return status;
}

bool etcd_log_in(etcd_server *etcd, const char *user, const char *password)
{
	char body[200], answer[1024], token[128] = "";
	etcd->authorization[0] = '\0';
	if (!user)
		return true;
	snprintf(body, sizeof body, "{\"name\":\"%s\",\"password\":\"%s\"}", user, password);
	const char *at = etcd_post(etcd, 0, "/v3/auth/authenticate", body, answer, sizeof answer) == 200
				 ? strstr(answer, "\"token\":\"")
				 : NULL;
	if (!at || sscanf(at + 9, "%127[^\"]", token) != 1)
		return false;
	snprintf(etcd->authorization, sizeof etcd->authorization, "Authorization: %s\r\n", token);
	return true;
}

static bool is_healthy(const member *m)
{
	char answer[1024];
	return exchange(m->health_port, "GET /health HTTP/1.0\r\n\r\n", answer, sizeof answer) &&
		strstr(answer, "\"true\"");
}

/* --- certificates ------------------------------------------------------------------------ */

static bool run(const char *folder, const char *command)
{
	char line[1200];
	snprintf(line, sizeof line, "cd '%s' && { %s ; } >>certificates.log 2>&1", folder, command);
	return system(line) == 0;
}

static bool make_certificates(const etcd_server *etcd)
{
	static const char make[] =
		"new='openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30'; "
		"$new -keyout ca-key.pem -out ca.pem -subj /CN=test-ca && "
		"$new -keyout other-key.pem -out other-ca.pem -subj /CN=other-ca && "
		"for who in server client; do "
		"openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $who-key.pem -out $who.csr "
		"-subj /CN=$who && "
		"printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >ext && "
		"openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 30 -extfile ext "
		"-out $who.pem || exit 1; done";
	return find_program("openssl") && run(etcd->folder, make);
}

const char *etcd_certificate(const etcd_server *etcd, const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", etcd->folder, name);
	return path;
}

/* --- processes ----------------------------------------------------------------------------- */

typedef struct arguments {
	char *list[48];
	size_t count;
} arguments;

__attribute__((format(printf, 2, 3))) static void add(arguments *a, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	a->list[a->count++] = strdup(text);
}

static void add_all(const etcd_server *etcd, size_t i, arguments *a)
{
	const member *m = &etcd->members[i];
	const etcd_setup *setup = &etcd->setup;
	const char *scheme = setup->tls ? "https" : "http";
	add(a, "etcd");
	add(a, "--name=m%zu", i);
	add(a, "--data-dir=%s/data%zu", etcd->folder, i);
	if (!setup->synced)
		add(a, "--unsafe-no-fsync"); /* processes crash here, machines do not */
	add(a, "--listen-client-urls=%s://127.0.0.1:%u", scheme, m->client_port);
	add(a, "--advertise-client-urls=%s://127.0.0.1:%u", scheme, m->client_port);
	add(a, "--listen-peer-urls=http://127.0.0.1:%u", m->peer_port);
	add(a, "--initial-advertise-peer-urls=http://127.0.0.1:%u", m->peer_port);
	add(a, "--listen-metrics-urls=http://127.0.0.1:%u", m->health_port);
	add(a, "--initial-cluster=%s", etcd->cluster);
	add(a, "--initial-cluster-token=%s", etcd->folder);
	if (setup->quota_bytes)
		add(a, "--quota-backend-bytes=%llu", (unsigned long long)setup->quota_bytes);
	if (setup->token_ttl_s)
		add(a, "--auth-token-ttl=%u", setup->token_ttl_s);
	if (setup->progress_ms)
		add(a, "--experimental-watch-progress-notify-interval=%ums", setup->progress_ms);
	if (setup->max_txn_ops)
		add(a, "--max-txn-ops=%zu", setup->max_txn_ops);
	if (setup->max_request_bytes)
		add(a, "--max-request-bytes=%zu", setup->max_request_bytes);
	if (setup->tls) {
		add(a, "--cert-file=%s/server.pem", etcd->folder);
		add(a, "--key-file=%s/server-key.pem", etcd->folder);
	}
	if (setup->client_tls) {
		add(a, "--client-cert-auth");
		add(a, "--trusted-ca-file=%s/ca.pem", etcd->folder);
	}
}

static void become_etcd(const etcd_server *etcd, size_t i, char *const *list)
{
	char log[128];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(log, sizeof log, "%s/log%zu", etcd->folder, i);
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(fd, 1);
	dup2(fd, 2);
	execvp(list[0], list);
	_exit(127);
}

static void spawn(etcd_server *etcd, size_t i)
{
	arguments a = {.count = 0};
	add_all(etcd, i, &a);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		become_etcd(etcd, i, a.list);
	etcd->members[i].pid = pid > 0 ? pid : 0;
	for (size_t k = 0; k < a.count; k++)
		free(a.list[k]);
}

/* Its log's end, for who has to find out why. */
static void show_log(const etcd_server *etcd, size_t i)
{
	char command[160];
	snprintf(command, sizeof command, "tail -n 5 '%s/log%zu' >&2", etcd->folder, i);
	if (system(command) != 0)
		fprintf(stderr, "(no log)\n");
}

static bool wait_healthy(const etcd_server *etcd, size_t i)
{
	uint64_t deadline = pgs__now_ms() + START_MS;
	while (!is_healthy(&etcd->members[i])) {
		if (pgs__now_ms() > deadline || waitpid(etcd->members[i].pid, NULL, WNOHANG) != 0) {
			fprintf(stderr, "etcd member %zu does not come up:\n", i);
			show_log(etcd, i);
			return false;
		}
		pgs__sleep_ms(20, 0);
	}
	return true;
}

static void name_members(etcd_server *etcd)
{
	for (size_t i = 0; i < etcd->setup.members; i++) {
		member *m = &etcd->members[i];
		m->client_port = etcd_free_port();
		m->peer_port = etcd_free_port();
		m->health_port = etcd_free_port();
		snprintf(m->endpoint, sizeof m->endpoint, "127.0.0.1:%u", m->client_port);
		const char *comma = i ? "," : "";
		size_t used = strlen(etcd->endpoints), named = strlen(etcd->cluster);
		snprintf(etcd->endpoints + used, sizeof etcd->endpoints - used, "%s%s", comma, m->endpoint);
		snprintf(etcd->cluster + named, sizeof etcd->cluster - named, "%sm%zu=http://127.0.0.1:%u", comma, i,
			m->peer_port);
	}
}

etcd_server *etcd_start(const etcd_setup *setup)
{
	etcd_server *etcd = calloc(1, sizeof *etcd);
	etcd->setup = *setup;
	etcd->setup.members = setup->members ? setup->members : 1;
	make_folder(etcd->folder);
	bool good = !setup->tls || make_certificates(etcd);
	if (!good)
		fprintf(stderr, "no certificates: is there an openssl?\n");
	name_members(etcd);
	for (size_t i = 0; i < etcd->setup.members && good; i++)
		spawn(etcd, i);
	for (size_t i = 0; i < etcd->setup.members && good; i++)
		good = wait_healthy(etcd, i);
	if (good)
		return etcd;
	etcd_stop(etcd);
	return NULL;
}

void etcd_kill(etcd_server *etcd, size_t i)
{
	pid_t pid = etcd->members[i].pid;
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	etcd->members[i].pid = 0;
}

bool etcd_restart(etcd_server *etcd, size_t i)
{
	spawn(etcd, i);
	return wait_healthy(etcd, i);
}

void etcd_freeze(etcd_server *etcd, size_t i)
{
	kill(etcd->members[i].pid, SIGSTOP);
}

void etcd_thaw(etcd_server *etcd, size_t i)
{
	kill(etcd->members[i].pid, SIGCONT);
}

static bool copy_data(etcd_server *etcd, const char *from, const char *to)
{
	char command[300];
	etcd_kill(etcd, 0);
	snprintf(command, sizeof command, "rm -rf '%s/%s' && cp -a '%s/%s' '%s/%s'", etcd->folder, to, etcd->folder, from,
		etcd->folder, to);
	return system(command) == 0 && etcd_restart(etcd, 0);
}

bool etcd_save(etcd_server *etcd)
{
	return copy_data(etcd, "data0", "saved");
}

bool etcd_restore(etcd_server *etcd)
{
	return copy_data(etcd, "saved", "data0");
}

void etcd_stop(etcd_server *etcd)
{
	if (!etcd)
		return;
	for (size_t i = 0; i < etcd->setup.members; i++)
		etcd_kill(etcd, i);
	remove_folder(etcd->folder);
	free(etcd);
}

/* --- what a test asks for --------------------------------------------------------------------- */

const char *etcd_endpoints(const etcd_server *etcd)
{
	return etcd->endpoints;
}

const char *etcd_endpoint(const etcd_server *etcd, size_t i)
{
	return etcd->members[i].endpoint;
}

static const char *own_endpoint(unsigned port)
{
	static char text[32];
	snprintf(text, sizeof text, "127.0.0.1:%u", port);
	return text;
}

const char *etcd_peer_endpoint(const etcd_server *etcd)
{
	return own_endpoint(etcd->members[0].peer_port);
}

const char *etcd_health_endpoint(const etcd_server *etcd)
{
	return own_endpoint(etcd->members[0].health_port);
}

unsigned etcd_port(const etcd_server *etcd, size_t i)
{
	return etcd->members[i].client_port;
}

size_t etcd_leader(const etcd_server *etcd)
{
	for (size_t i = 0; i < etcd->setup.members; i++) {
		char answer[2048], leader[32] = "", me[32] = "";
		if (!etcd->members[i].pid ||
			etcd_post(etcd, i, "/v3/maintenance/status", "{}", answer, sizeof answer) != 200)
			continue;
		const char *at = strstr(answer, "\"leader\":\""), *own = strstr(answer, "\"member_id\":\"");
		if (at && own && sscanf(at + 10, "%31[0-9]", leader) == 1 && sscanf(own + 13, "%31[0-9]", me) == 1 &&
			!strcmp(leader, me))
			return i;
	}
	return SIZE_MAX;
}

pgs_kv *etcd_kv(const etcd_server *etcd, const char *root, const pgs_kv_limits *limits)
{
	pgs_etcd_options options = PGS_ETCD_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	if (limits)
		options.limits = *limits;
	if (pgs_kv_etcd_open(&kv, etcd->endpoints, root, &options, &err) != PGS_OK)
		fprintf(stderr, "etcd KV: %s\n", err.message);
	return kv;
}
