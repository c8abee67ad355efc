/* See LICENSE file for copyright and license details. */
/*
 * siege: many requests over eight connections, each answer checked.
 *
 *	siege SOCKET COUNT SEED DISK WITNESS...
 *
 * For each disk, a map perhaps, WITNESS is a nexus of its own to the same
 * logical unit, which is asked with SG_IO and never registers. On each disk
 * one connection is a guest: it registers, reserves, releases and clears, knows
 * what it must be told, and what the witness must see then. All others only
 * read. Nobody else uses the logical units; paths of a map may come and go, if
 * one stays.
 *
 * BUSY is asked for again, as a guest's kernel does. After an aborted command
 * the guest finds out which key it has. Prints what was wrong, and how
 * much of all that there was. Exit status: 0 nothing was wrong, 1 something
 * was, 3 wrong use.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

#define LEN(a) (int)(sizeof(a) / sizeof((a)[0]))

enum {
	CONNECTIONS = 8,
	DISKS = 2,
	LISTLEN = 24,
	PATIENCE = 60000, /* ms: longer than any command may take */
	ALL_REGISTRANTS = 7,
};

enum { READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES };
enum { REGISTER, RESERVE, RELEASE, CLEAR, IGNORE = 6 };

static const uint64_t keys[] = { 0, 0xa, 0xc };
/* The last one is held by all paths, also by one that is away. */
static const int types[] = { 1, 5, 6, 8 };

/* What the target must hold. */
struct unit {
	int disk, witness;
	int leaves_keys; /* on paths that are away */
	uint64_t key; /* 0: not registered */
	int type;     /* of the reservation; 0: none */
};

struct client {
	pthread_t thread;
	struct unit *unit;
	int sock, writes;
	uint64_t seed;
};

static struct unit units[DISKS];
static struct client clients[CONNECTIONS];
static long count;
static atomic_long done, busy, aborted, wrong;

static unsigned
chance(struct client *c, unsigned n)
{
	c->seed = c->seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(c->seed >> 33) % n;
}

static void
complain(const struct client *c, const char *fmt, ...)
{
	va_list ap;

	if (atomic_fetch_add(&wrong, 1) >= 10)
		return;
	va_start(ap, fmt);
	flockfile(stdout);
	printf("disk %d: ", (int)(c->unit - units) + 1);
	vprintf(fmt, ap);
	printf(" (key %llx, type %d)\n", (unsigned long long)c->unit->key,
	    c->unit->type);
	funlockfile(stdout);
	va_end(ap);
}

/* One request, again while it is BUSY: its status; -1: no connection. */
static int
ask(struct client *c, const unsigned char *cdb, const unsigned char *list,
    struct answer *a)
{
	do {
		if (sendfds(c->sock, cdb, CDBLEN, &c->unit->disk, 1) < 0 ||
		    (list && writen(c->sock, list, LISTLEN) < 0) ||
		    readanswer(c->sock, cdb, a, PATIENCE) < 0) {
			complain(c, "the connection failed");
			return -1;
		}
		atomic_fetch_add(&done, 1);
	} while (a->status == 8 && atomic_fetch_add(&busy, 1) >= 0);
	return a->status;
}

/* The witness's view: READ KEYS or READ RESERVATION; -1 if it has none. */
static int
witness(const struct unit *u, int action, struct answer *a)
{
	const unsigned char cdb[CDBLEN] = { 0x5e, (unsigned char)action,
		[7] = DATAMAX >> 8 };
	int i;

	for (i = 0; i < 10; i++) { /* unit attentions of what the guest did */
		direct(u->witness, cdb, NULL, 0, a);
		if (a->status == 0)
			return 0;
	}
	return -1;
}

/* Does the target hold what it must, and nothing else? */
static void
check(const struct client *c, const char *what)
{
	const struct unit *u = c->unit;
	struct answer a;
	unsigned long n, i, key, others = 0, found = 0;
	int type = 0;

	if (witness(u, READ_KEYS, &a) < 0) {
		complain(c, "the witness sees nothing");
		return;
	}
	n = getbe(a.data + 4, 4);
	for (i = 0; i < n; i += 8) {
		key = getbe(a.data + 8 + i, 8);
		found += key == u->key;
		others += key != u->key;
	}
	if ((u->key && !found) || (others && !u->leaves_keys))
		complain(c, "%s, and %ld keys are there, %ld others", what,
		    found, others);
	if (witness(u, READ_RESERVATION, &a) < 0)
		return;
	key = getbe(a.data + 8, 8);
	if (getbe(a.data + 4, 4))
		type = a.data[21] & 0xf;
	if (type != u->type ||
	    (type && type < ALL_REGISTRANTS && key != u->key))
		complain(c, "%s, and key %lx holds type %d", what, key, type);
}

static int
send_out(struct client *c, int action, int type, uint64_t key,
    uint64_t sa_key, struct answer *a)
{
	unsigned char cdb[CDBLEN] = { 0x5f, (unsigned char)action,
		(unsigned char)type, [8] = LISTLEN };
	unsigned char list[LISTLEN] = { 0 };

	putbe(list, key, 8);
	putbe(list + 8, sa_key, 8);
	return ask(c, cdb, list, a);
}

/* A command was aborted. Has the guest a key, and the reservation? */
static void
find_out(struct client *c)
{
	struct unit *u = c->unit;
	struct answer a;
	int i = LEN(keys);

	atomic_fetch_add(&aborted, 1);
	while (--i > 0 && send_out(c, REGISTER, 0, keys[i], keys[i], &a) != 0)
		;
	u->key = keys[i];
	u->type = 0;
	if (witness(u, READ_RESERVATION, &a) == 0 && getbe(a.data + 4, 4))
		u->type = a.data[21] & 0xf;
}

/* LIO has a word of its own for a nexus that is not registered. */
static int
fits(const struct client *c, int got, const struct answer *a, int want)
{
	return got == want ||
	    (want == 0x18 && got == 2 && !c->unit->key &&
		a->sense[2] == 2 && a->sense[12] == 8);
}

/* An OUT of the guest: is it told what it must be? Then what is there now. */
static void
out(struct client *c, int action, int type, uint64_t key, uint64_t sa_key,
    int want)
{
	static const char *const names[] = { "REGISTER", "RESERVE", "RELEASE",
		"CLEAR", "", "", "REGISTER AND IGNORE" };
	struct unit *u = c->unit;
	struct answer a;
	int got = send_out(c, action, type, key, sa_key, &a);

	if (got == 2 && (a.sense[2] & 0xf) == 0xb) {
		find_out(c);
		return;
	}
	if (!fits(c, got, &a, want))
		complain(c, "%s type %d key %llx for %llx: %02x %x/%02x/%02x, "
			    "not %02x",
		    names[action], type, (unsigned long long)key,
		    (unsigned long long)sa_key, got, a.sense[2] & 0xf,
		    a.sense[12], a.sense[13], want);
	if (got)
		return;
	switch (action) {
	case REGISTER:
	case IGNORE: u->key = sa_key; break;
	case RESERVE: u->type = type; break;
	case RELEASE: u->type = 0; break;
	default: u->key = 0;
	}
	if (!u->key)
		u->type = 0;
	check(c, names[action]);
}

/* The guest does one thing more. */
static void
act(struct client *c)
{
	const struct unit *u = c->unit;
	int type = types[chance(c, u->leaves_keys ? 3 : 4)];
	int want = u->key && u->type && u->type != type ? 0x18 : 0;
	uint64_t key = keys[chance(c, 3)];

	switch (chance(c, 10)) {
	case 0: out(c, REGISTER, 0, u->key, key, 0); break;
	case 1: out(c, IGNORE, 0, 0, key, 0); break;
	case 2: out(c, REGISTER, 0, 0xbad, key, 0x18); break;
	case 3: out(c, RESERVE, type, 0xbad, 0, 0x18); break;
	case 4:
		if (chance(c, 10) == 0 && u->key)
			out(c, CLEAR, 0, u->key, 0, 0);
		break;
	case 5:
	case 6:
		if (u->key && u->type)
			out(c, RELEASE, u->type, u->key, 0, 0);
		break;
	default:
		if (u->key)
			out(c, RESERVE, type, u->key, 0, want);
	}
}

/* Anybody reads: the form is right, and no key is there but the guest's. */
static void
read_one(struct client *c)
{
	unsigned char cdb[CDBLEN] = { 0x5e, (unsigned char)chance(c, 3),
		[7] = DATAMAX >> 8 };
	struct answer a;
	unsigned long i, n, key;

	if (ask(c, cdb, NULL, &a) != 0) {
		complain(c, "IN %d: %02x %x/%02x/%02x", cdb[1], a.status,
		    a.sense[2] & 0xf, a.sense[12], a.sense[13]);
		return;
	}
	if (cdb[1] == REPORT_CAPABILITIES) {
		if (a.size != 8 || getbe(a.data, 2) != 8)
			complain(c, "REPORT CAPABILITIES: %d bytes", a.size);
		return;
	}
	n = getbe(a.data + 4, 4);
	if (a.size < 8 || (unsigned long)a.size != 8 + n)
		complain(c, "IN %d: %d bytes", cdb[1], a.size);
	for (i = 0; i < n; i += cdb[1] == READ_KEYS ? 8 : n) {
		key = getbe(a.data + 8 + i, 8);
		if (key != keys[1] && key != keys[2] &&
		    (key || cdb[1] == READ_KEYS))
			complain(c, "IN %d: key %lx", cdb[1], key);
	}
}

static void *
live(void *arg)
{
	struct client *c = arg;
	struct answer a;

	/* What another one of us has left there */
	if (c->writes) {
		send_out(c, IGNORE, 0, 0, keys[1], &a);
		send_out(c, CLEAR, 0, keys[1], 0, &a);
	}
	while (atomic_load(&done) < count && atomic_load(&wrong) < 10)
		if (c->writes)
			act(c);
		else
			read_one(c);
	return NULL;
}

int
main(int argc, char *argv[])
{
	struct client *c;
	int i;

	if (argc != 4 + 2 * DISKS) {
		fputs("usage: siege SOCKET COUNT SEED DISK WITNESS "
		      "DISK WITNESS\n",
		    stderr);
		return 3;
	}
	count = atol(argv[2]);
	for (i = 0; i < DISKS; i++) {
		units[i].leaves_keys = !!strstr(argv[4 + 2 * i], "/mapper/");
		units[i].disk = open(argv[4 + 2 * i], O_RDWR | O_NONBLOCK);
		units[i].witness = open(argv[5 + 2 * i], O_RDWR | O_NONBLOCK);
		if (units[i].disk < 0 || units[i].witness < 0) {
			perror("siege");
			return 3;
		}
	}
	for (i = 0; i < CONNECTIONS; i++) {
		c = &clients[i];
		c->unit = &units[i % DISKS];
		c->writes = i < DISKS;
		c->seed = (uint64_t)atol(argv[3]) + (uint64_t)i;
		c->sock = dial(argv[1]);
		if (handshake(c->sock, PATIENCE) < 0 ||
		    pthread_create(&c->thread, NULL, live, c)) {
			perror("siege");
			return 3;
		}
	}
	for (i = 0; i < CONNECTIONS; i++)
		pthread_join(clients[i].thread, NULL);
	printf("%ld requests, %ld BUSY, %ld aborted, %ld wrong\n", done, busy,
	    aborted, wrong);
	return wrong != 0;
}
