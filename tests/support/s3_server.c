/* A real S3 server for tests. */
#include "support/s3_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/stores.h"
#include "support/testing.h"

#define START_MS 30000

struct s3_server {
	pid_t pid;
	int input; /* it ends when this is closed */
	unsigned port;
	bool durable;
	char folder[64];
	char endpoint[48];
	char ca[80], other_ca[80];
};

/* --- is there one ------------------------------------------------------------------ */

static const char *s3rver_folder(void)
{
	static char path[1024];
	const char *given = getenv("PAGESTORE_S3RVER"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	if (given && *given)
		snprintf(path, sizeof path, "%s", given);
	else if (cache && *cache)
		snprintf(path, sizeof path, "%s/pagestore/s3rver", cache);
	else
		snprintf(path, sizeof path, "%s/.cache/pagestore/s3rver", home ? home : "");
	return path;
}

bool s3_available(void)
{
	char path[1100];
	const char *ci = getenv("CI");
	snprintf(path, sizeof path, "%s/node_modules/s3rver/package.json", s3rver_folder());
	const char *missing = system("node --version >/dev/null 2>&1") != 0 ? "node" :
		system("openssl version >/dev/null 2>&1") != 0 ? "openssl" : access(path, R_OK) != 0 ? "s3rver" : NULL;
	if (!missing)
		return true;
	fprintf(stderr, "SKIPPED: there is no %s (Debian: nodejs, openssl; npm install --prefix %s s3rver@3.7.1)\n", missing,
		s3rver_folder());
	if (ci && !strcmp(ci, "true")) {
		fprintf(stderr, "FAILED: with CI=true, nothing may be skipped\n");
		exit(1);
	}
	return false;
}

/* --- starting ------------------------------------------------------------------------- */

static bool make_certificates(const char *folder)
{
	char line[1500];
	snprintf(line, sizeof line,
		"cd '%s' && { "
		"new='openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30'; "
		"$new -keyout ca-key.pem -out ca.pem -subj /CN=test-ca && "
		"$new -keyout other-key.pem -out other-ca.pem -subj /CN=other-ca && "
		"openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out server.csr "
		"-subj /CN=server && "
		"printf 'subjectAltName=IP:127.0.0.1,DNS:*.s3.localhost\\n' >ext && "
		"openssl x509 -req -in server.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 30 -extfile ext "
		"-out cert.pem; } >certificates.log 2>&1",
		folder);
	return system(line) == 0;
}

static void become_server(const s3_server *s3, int in, int out, bool tls)
{
	char log[96], key[96], cert[96], port[16], data[96] = "";
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(port, sizeof port, "%u", s3->port);
	if (s3->durable)
		snprintf(data, sizeof data, "%s/data", s3->folder);
	snprintf(log, sizeof log, "%s/log", s3->folder);
	snprintf(key, sizeof key, "%s/key.pem", s3->folder);
	snprintf(cert, sizeof cert, "%s/cert.pem", s3->folder);
	dup2(in, 0);
	dup2(out, 1);
	dup2(open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), 2);
	execlp("node", "node", TEST_SUPPORT_DIR "/s3rver.js", s3rver_folder(), S3_TEST_BUCKET, port, data,
		tls ? key : (char *)NULL, cert, (char *)NULL);
	_exit(127);
}

/* It says its port when it is ready. */
static unsigned read_port(int out)
{
	char text[16] = "";
	struct pollfd fd = {.fd = out, .events = POLLIN};
	ssize_t size = poll(&fd, 1, START_MS) == 1 ? read(out, text, sizeof text - 1) : 0;
	return size > 0 ? (unsigned)atoi(text) : 0;
}

static bool spawn(s3_server *s3, bool tls)
{
	int in[2], out[2];
	if (pipe2(in, O_CLOEXEC) != 0)
		return false;
	if (pipe2(out, O_CLOEXEC) != 0) {
		close(in[0]);
		close(in[1]);
		return false;
	}
	fflush(NULL);
	s3->pid = fork();
	if (s3->pid == 0)
		become_server(s3, in[0], out[1], tls);
	close(in[0]);
	close(out[1]);
	s3->input = in[1];
	unsigned port = s3->pid > 0 ? read_port(out[0]) : 0;
	close(out[0]);
	s3->port = port ? port : s3->port;
	return port != 0;
}

static s3_server *start(bool tls, bool durable)
{
	s3_server *s3 = calloc(1, sizeof *s3);
	char data[96];
	s3->input = -1;
	s3->durable = durable;
	make_folder(s3->folder);
	snprintf(data, sizeof data, "%s/data", s3->folder);
	mkdir(data, 0700);
	snprintf(s3->ca, sizeof s3->ca, "%s/ca.pem", s3->folder);
	snprintf(s3->other_ca, sizeof s3->other_ca, "%s/other-ca.pem", s3->folder);
	bool good = !tls || make_certificates(s3->folder);
	if (!good)
		fprintf(stderr, "no certificates: is there an openssl?\n");
	if (good && spawn(s3, tls)) {
		snprintf(s3->endpoint, sizeof s3->endpoint, "http%s://127.0.0.1:%u", tls ? "s" : "", s3->port);
		return s3;
	}
	char command[128];
	snprintf(command, sizeof command, "tail -n 5 '%s/log' >&2", s3->folder);
	fprintf(stderr, "s3rver does not start:\n");
	if (system(command) != 0)
		fprintf(stderr, "(no log)\n");
	s3_stop(s3);
	return NULL;
}

s3_server *s3_start(bool tls)
{
	return start(tls, false);
}

s3_server *s3_start_durable(void)
{
	return start(false, true);
}

void s3_kill(s3_server *s3)
{
	if (s3->input >= 0)
		close(s3->input);
	if (s3->pid > 0) {
		kill(s3->pid, SIGKILL);
		waitpid(s3->pid, NULL, 0);
	}
	s3->input = -1;
	s3->pid = 0;
}

bool s3_restart(s3_server *s3)
{
	return spawn(s3, false);
}

void s3_stop(s3_server *s3)
{
	if (!s3)
		return;
	s3_kill(s3);
	remove_folder(s3->folder);
	free(s3);
}

/* --- what a test asks for --------------------------------------------------------------- */

unsigned s3_port(const s3_server *s3)
{
	return s3->port;
}

const char *s3_endpoint(const s3_server *s3)
{
	return s3->endpoint;
}

const char *s3_ca_file(const s3_server *s3)
{
	return s3->ca;
}

const char *s3_other_ca_file(const s3_server *s3)
{
	return s3->other_ca;
}

/* The number that it answers to a GET of ours; -1: none. */
static int ask(const s3_server *s3, const char *target)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)s3->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	char request[512], answer[1024];
	size_t used = 0, size = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.0\r\n\r\n", target);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
		    send(fd, request, size, MSG_NOSIGNAL) == (ssize_t)size;
	for (ssize_t got; good && used < sizeof answer - 1; used += (size_t)got) {
		got = recv(fd, answer + used, sizeof answer - 1 - used, 0);
		if (got <= 0)
			break;
	}
	close(fd);
	answer[used] = '\0';
	const char *body = strstr(answer, "\r\n\r\n");
	return good && body ? atoi(body + 4) : -1;
}

int s3_open_uploads(const s3_server *s3)
{
	return ask(s3, "/-uploads");
}

void s3_set_fault(const s3_server *s3, const s3_fault *f)
{
	char target[400];
	snprintf(target, sizeof target, "/-fault?kind=%s&method=%s&part=%s&times=%u&status=%u&code=%s&ms=%u", f->kind,
		f->method ? f->method : "", f->part ? f->part : "", f->times, f->status, f->code ? f->code : "", f->ms);
	assert_true(ask(s3, target) >= 0);
}

int s3_heal(const s3_server *s3)
{
	return ask(s3, "/-fault");
}

pgs_s3_options s3_options(const s3_server *s3)
{
	pgs_s3_options options = PGS_S3_OPTIONS_INIT;
	options.endpoint = s3->endpoint;
	options.access_key_id = S3_TEST_ID;
	options.secret_access_key = S3_TEST_SECRET;
	return options;
}

pgs_blob *s3_blob(const s3_server *s3, const char *prefix, const pgs_s3_options *options)
{
	pgs_s3_options own = s3_options(s3);
	pgs_error err = PGS_ERROR_INIT;
	pgs_blob *blob;
	if (pgs_blob_s3_open(&blob, S3_TEST_BUCKET, prefix, options ? options : &own, &err) != PGS_OK)
		fprintf(stderr, "%s\n", err.message);
	return blob;
}
