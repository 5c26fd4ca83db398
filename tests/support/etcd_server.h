/* A real etcd for tests: one member or several, on free ports of this machine, in a folder that goes with it.
 *
 *     etcd_server *etcd = etcd_start(&(etcd_setup){.members = 1});
 *     ... pgs_kv_etcd_open(&kv, etcd_endpoints(etcd), "root", NULL, &err) ...
 *     etcd_stop(etcd);
 *
 * The processes die with the test's, whatever ends it. */
#ifndef PGS_TESTS_ETCD_SERVER_H
#define PGS_TESTS_ETCD_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/sys/kv.h>

typedef struct etcd_server etcd_server;

typedef struct etcd_setup {
	size_t members;        /* 0 = 1 */
	uint64_t quota_bytes;  /* 0 = etcd's default */
	unsigned token_ttl_s;  /* of simple tokens; 0 = etcd's default */
	unsigned progress_ms;  /* between a quiet watch's notices; 0 = etcd's default */
	size_t max_txn_ops;    /* 0 = etcd's default */
	size_t max_request_bytes;
	bool tls;              /* with a certificate of etcd_certificates() */
	bool client_tls;       /* and clients need one */
	bool synced;           /* what it writes is synced to disk: slower, as it is where machines crash */
} etcd_setup;

/* False, having said so loudly, when there is no etcd, or no openssl for its certificates: the test is skipped. Where CI=true it ends the program as
 * failed instead. */
bool etcd_available(void);

/* Started and answering; NULL, having said why, when it does not come up. */
etcd_server *etcd_start(const etcd_setup *setup);
void etcd_stop(etcd_server *etcd);

/* "127.0.0.1:port,…", of all members, or of one. */
const char *etcd_endpoints(const etcd_server *etcd);
const char *etcd_endpoint(const etcd_server *etcd, size_t which);
const char *etcd_peer_endpoint(const etcd_server *etcd);   /* where members talk to one another */
const char *etcd_health_endpoint(const etcd_server *etcd); /* where it tells its health */
unsigned etcd_port(const etcd_server *etcd, size_t which);

void etcd_kill(etcd_server *etcd, size_t which);    /* -9 */
bool etcd_restart(etcd_server *etcd, size_t which); /* until it answers */
void etcd_freeze(etcd_server *etcd, size_t which);
void etcd_thaw(etcd_server *etcd, size_t which);

/* Keep a copy of what one that has a single member stores, and put it back later: both kill it, and start it again. */
bool etcd_save(etcd_server *etcd);
bool etcd_restore(etcd_server *etcd);

/* The member that leads now; SIZE_MAX when none does. */
size_t etcd_leader(const etcd_server *etcd);

/* One request of the gateway, in JSON; returns the HTTP status and the answer's beginning. 0: no answer. Not over TLS. */
int etcd_post(const etcd_server *etcd, size_t which, const char *path, const char *body, char *answer, size_t size);

/* Later requests are those of this user (NULL: of nobody). */
bool etcd_log_in(etcd_server *etcd, const char *user, const char *password);

/* A KV on it, below a root of its own; NULL, having said why. */
pgs_kv *etcd_kv(const etcd_server *etcd, const char *root, const pgs_kv_limits *limits);

/* "<folder>/<name>" for name "ca.pem", "client.pem", "client-key.pem", "other-ca.pem"; made with the program openssl.
 * NULL when there is none. Valid for the server's life. */
const char *etcd_certificate(const etcd_server *etcd, const char *name);

/* A port that nobody listens on now. */
unsigned etcd_free_port(void);

#endif
