/* See LICENSE file for copyright and license details. */
/*
 * prhelper status, in and out: for whoever has to find out who holds a disk,
 * and to do something about it. What a helper does for its clients is done
 * here once, in this process, or by a helper that is asked over its socket.
 * Neither a daemon nor a thread.
 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/un.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "prhelper.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	FULL_LEN = 24, /* of a full status descriptor's fixed part */
	ISCSI = 5,     /* protocol of a TransportID */
};

/* What is wrong, as monitoring plug-ins say it. */
enum { FINE, DEGRADED, FAILED };

/* clang-format off */
static const struct action {
	char word[16], letter; /* that of sg_persist */
	uint8_t opcode, action;
} actions[] = {
	{ "keys",		'k', PR_IN, READ_KEYS },
	{ "reservation",	'r', PR_IN, READ_RESERVATION },
	{ "capabilities",	'c', PR_IN, REPORT_CAPABILITIES },
	{ "full-status",	's', PR_IN, READ_FULL_STATUS },
	{ "register",		'G', PR_OUT, REGISTER },
	{ "register-ignore",	'I', PR_OUT, REGISTER_AND_IGNORE },
	{ "reserve",		'R', PR_OUT, RESERVE },
	{ "release",		'L', PR_OUT, RELEASE },
	{ "clear",		'C', PR_OUT, CLEAR },
	{ "preempt",		'P', PR_OUT, PREEMPT },
	{ "preempt-abort",	'A', PR_OUT, PREEMPT_AND_ABORT },
	{ "replace-lost",	'z', PR_OUT, REPLACE_LOST },
};

static const char types[][36] = {
	[1] = "write exclusive",
	[3] = "exclusive access",
	[5] = "write exclusive, registrants only",
	[6] = "exclusive access, registrants only",
	[7] = "write exclusive, all registrants",
	[8] = "exclusive access, all registrants",
};

/* A path with this mark, and what a helper does about it when it can. */
static const char marks[][2][12] = {
	[MARK_NONE] = { "none", "register" },
	[MARK_CLEAN] = { "clean", "nothing" },
	[MARK_SET] = { "set", "register" },
	[MARK_CLEAR] = { "clear", "unregister" },
	[MARK_GONE] = { "gone", "ask" },
	[MARK_ROBBED] = { "robbed", "leave" },
	[MARK_TAINTED] = { "tainted", "ask" },
};
/* clang-format on */

static const char *device; /* as it was named */
static const char *disk;   /* as lines begin with it */
static const char *state_dir = DEFAULT_SOCKET STATE_SUFFIX;
static int helper = -1; /* a socket; -1: we do it ourselves */
static uint8_t data[DATA_MAX];

static _Noreturn void
finish(int status)
{
	if (fflush(stdout) != 0)
		die("standard output:");
	exit(status);
}

/* A helper, as its clients talk to it. */

static void
transfer(ssize_t (*step)(int, void *, size_t), void *buf, size_t len)
{
	ssize_t n;

	for (; len > 0; len -= (size_t)n, buf = (uint8_t *)buf + n)
		if ((n = step(helper, buf, len)) <= 0)
			die("the helper closed the connection%s",
			    n < 0 ? ":" : "");
}

static ssize_t
put(int fd, void *buf, size_t len)
{
	return send(fd, buf, len, MSG_NOSIGNAL);
}

static void
greet(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	uint8_t features[FEATURES_LEN];

	if (strlen(path) >= sizeof(sun.sun_path))
		die("socket %s: the name is too long", path);
	memcpy(sun.sun_path, path, strlen(path));
	helper = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (helper < 0 ||
	    connect(helper, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		die("socket %s:", path);
	transfer(read, features, sizeof(features));
	put32(features, 0);
	transfer(put, features, sizeof(features));
}

static void
ask_helper(const struct request *rq, struct reply *rp)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { .buf = "" };
	struct iovec iov = { (void *)rq->cdb, CDB_LEN };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint8_t head[REPLY_LEN];
	struct cmsghdr *c;

	m.msg_control = control.buf;
	m.msg_controllen = sizeof(control.buf);
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &rq->fd, sizeof(int));
	if (sendmsg(helper, &m, MSG_NOSIGNAL) != CDB_LEN)
		die("the helper did not take the request:");
	if (rq->cdb[0] == PR_OUT)
		transfer(put, rq->data, rq->len);
	transfer(read, head, sizeof(head));
	rp->status = (uint8_t)get32(head);
	rp->len = get32(head + 4);
	memcpy(rp->sense, head + 8, SENSE_LEN);
	if (rp->len > DATA_MAX)
		die("the helper's answer makes no sense");
	transfer(read, rq->data, rp->len);
}

/* A command, to whoever does it. */
static void
send_request(struct request *rq, struct reply *rp)
{
	if (helper >= 0)
		ask_helper(rq, rp);
	else if (rq->fd >= 0)
		dispatch(rq, rp);
	else
		mpath_run(rq, rp); /* which has no descriptor */
}

/* Read into data: how much of it there is behind the head, or -1. */
static int
ask(struct request *rq, int action, struct reply *rp)
{
	uint32_t len;

	memset(rq->cdb, 0, sizeof(rq->cdb));
	rq->cdb[0] = PR_IN;
	rq->cdb[1] = (uint8_t)action;
	rq->cdb[7] = (uint8_t)(rq->len >> 8);
	rq->cdb[8] = (uint8_t)rq->len;
	rq->data = data;
	send_request(rq, rp);
	if (rp->status != GOOD || rp->len < HEAD_LEN)
		return -1;
	len = get32(data + 4);
	return (int)(len < rp->len - HEAD_LEN ? len : rp->len - HEAD_LEN);
}

static void
complain(const uint8_t *cdb, const struct reply *rp)
{
	uint32_t sense = proto_sense_of(rp->sense);
	const char *what = "";

	switch (rp->status) {
	case GOOD: what = ": the answer makes no sense"; break;
	case BUSY: what = " (busy)"; break;
	case RESERVATION_CONFLICT: what = " (reservation conflict)"; break;
	}
	if (rp->status == CHECK_CONDITION)
		warn("%s: %s: sense %xh/%02xh/%02xh", device, proto_name(cdb),
		    sense >> 16, sense >> 8 & 0xff, sense & 0xff);
	else
		warn("%s: %s: status %02xh%s", device, proto_name(cdb),
		    rp->status, what);
}

static int health;
static const char *why;

static void
worse(int how, const char *what)
{
	if (how <= health)
		return;
	health = how;
	why = what;
}

/* As ask(); that it fails is said. */
static int
read_all(struct request *rq, int action)
{
	struct reply rp;
	int n;

	if ((n = ask(rq, action, &rp)) >= 0)
		return n;
	complain(rq->cdb, &rp);
	worse(FAILED, "its registrations cannot be read");
	return -1;
}

/* What the answers say */

/* The start of a line: of which disk, and of what of it. */
static void
item(const char *what)
{
	printf("%-11s %-10s ", disk, what);
}

static uint64_t
key_at(uint32_t i)
{
	return get64(data + HEAD_LEN + (size_t)i * KEY_LEN);
}

/* How often the first n keys of those that were read are this one */
static int
count(uint64_t key, uint32_t n)
{
	int times = 0;

	while (n-- > 0)
		times += key_at(n) == key;
	return times;
}

static void
print_keys(uint32_t len)
{
	uint32_t i, n = len / KEY_LEN;
	int times;

	item("generation");
	printf("%u\n", get32(data));
	for (i = 0; i < n; i++) {
		if (count(key_at(i), i))
			continue;
		item("key");
		times = count(key_at(i), n);
		printf("0x%llx on %d nexus%s\n", (unsigned long long)key_at(i),
		    times, times > 1 ? "es" : "");
	}
}

static void
print_reservation(uint32_t len)
{
	unsigned int type = data[RESERVATION_TYPE] & TYPE_MASK;

	item("holder");
	if (len < RESERVATION_LEN)
		puts("none");
	else
		printf("0x%llx type %u %s\n", (unsigned long long)key_at(0),
		    type, type < LEN(types) ? types[type] : "");
}

/* SPC-4 6.15.4: bits of bytes 2 to 5 */
static void
print_capabilities(uint32_t len)
{
	static const struct {
		uint8_t byte, bit;
		char name[24];
	} bits[] = {
		{ 2, 0x80, "replace-lost" },
		{ 2, 0x10, "compatible-reserve" },
		{ 2, 0x08, "specify-initiator-ports" },
		{ 2, 0x04, "all-target-ports" },
		{ 2, 0x01, "aptpl-capable" },
		{ 3, 0x01, "aptpl-active" },
	};
	const unsigned int mask = (unsigned int)data[5] << 8 | data[4];
	size_t i;

	(void)len;
	for (i = 0; i < LEN(bits); i++)
		if (data[bits[i].byte] & bits[i].bit) {
			item("can");
			puts(bits[i].name);
		}
	for (i = 0; data[3] & 0x80 && i < LEN(types); i++)
		if (types[i][0] && mask >> i & 1) {
			item("type");
			printf("%zu %s\n", i, types[i]);
		}
}

/* From now on lines are about this one: what people call it. */
static void
call(dev_t dev)
{
	static char name[PATH_NAME];

	disk = dev && path_name(dev, name) == 0 ? name : device;
}

/* The descriptor at *i of a full status, and move on; NULL: no more. */
static const uint8_t *
next_full(uint32_t *i, uint32_t len)
{
	const uint8_t *d = data + HEAD_LEN + *i;

	if (*i + FULL_LEN > len || get32(d + 20) > len - FULL_LEN - *i)
		return NULL;
	*i += FULL_LEN + get32(d + 20);
	return d;
}

static int
port_of(const uint8_t *full)
{
	return full[18] << 8 | full[19];
}

/* A TransportID, SPC-4 7.6.4: that of iSCSI is a name, others are numbers. */
static void
print_transport(const uint8_t *id, uint32_t len)
{
	const int name = (id[0] & 0x0f) == ISCSI;
	uint32_t i;

	for (i = 4; i < len && (id[i] || !name); i++)
		printf(name && isgraph(id[i]) ? "%c" : "%02x", id[i]);
}

static void
print_full(uint32_t len)
{
	const uint8_t *d;
	uint32_t i = 0;

	while ((d = next_full(&i, len))) {
		item("key");
		printf("0x%llx port %d%s protocol %d ",
		    (unsigned long long)get64(d), port_of(d),
		    d[12] & 0x01 ? " holder" : "", d[FULL_LEN] & 0x0f);
		print_transport(d + FULL_LEN, get32(d + 20));
		putchar('\n');
	}
}

/* in, out */

static uint64_t
hex(const char *option, const char *arg, uint64_t max)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(arg, &end, 16);
	if (!isxdigit((unsigned char)arg[0]) || *end || errno || v > max)
		die("%s %s: must be hexadecimal, at most %llx", option, arg,
		    (unsigned long long)max);
	return v;
}

struct command {
	const struct action *action;
	uint64_t key, sa_key;
	uint8_t type, flags;
	uint32_t len;
};

/* Say what is about to go: what has this key, or everything. */
static void
announce(struct request *rq, const struct command *c)
{
	const int all = c->action->action == CLEAR;
	int i, n, gone;

	rq->len = DATA_MAX;
	n = read_all(rq, READ_KEYS) / KEY_LEN;
	gone = all ? n : count(c->sa_key, (uint32_t)n);
	for (i = 0; i < n; i++)
		if (all || key_at((uint32_t)i) == c->sa_key) {
			item("removing");
			printf("0x%llx\n",
			    (unsigned long long)key_at((uint32_t)i));
		}
	n = read_all(rq, READ_RESERVATION);
	if (n >= RESERVATION_LEN && (all || key_at(0) == c->sa_key)) {
		item("removing");
		puts(!all && key_at(0) == 0 ? "all others, and of" :
					      "the reservation of");
		print_reservation((uint32_t)n);
	} else if (n >= 0 && !gone) {
		item("removing");
		puts("nothing");
	}
	if (fflush(stdout) != 0)
		die("standard output:");
}

static _Noreturn void
run_in(struct request *rq, const struct command *c)
{
	static void (*const print[])(uint32_t) = {
		[READ_KEYS] = print_keys,
		[READ_RESERVATION] = print_reservation,
		[REPORT_CAPABILITIES] = print_capabilities,
		[READ_FULL_STATUS] = print_full,
	};
	struct reply rp;
	int n;

	rq->len = c->len;
	if ((n = ask(rq, c->action->action, &rp)) < 0) {
		complain(rq->cdb, &rp);
		finish(rp.status == GOOD ? 1 : rp.status);
	}
	print[c->action->action]((uint32_t)n);
	if (get32(data + 4) > (uint32_t)n &&
	    c->action->action != REPORT_CAPABILITIES) {
		item("more");
		printf("%u bytes\n", get32(data + 4) - (uint32_t)n);
	}
	finish(0);
}

static _Noreturn void
run_out(struct request *rq, const struct command *c)
{
	struct reply rp;

	if (c->action->action >= CLEAR &&
	    c->action->action <= PREEMPT_AND_ABORT)
		announce(rq, c);
	memset(rq->cdb, 0, sizeof(rq->cdb));
	rq->cdb[0] = PR_OUT;
	rq->cdb[1] = c->action->action;
	rq->cdb[2] = c->type;
	put32(rq->cdb + 5, PARAMS_LEN);
	rq->len = PARAMS_LEN;
	memset(data, 0, PARAMS_LEN);
	put64(data, c->key);
	put64(data + KEY_LEN, c->sa_key);
	data[FLAGS] = c->flags;
	send_request(rq, &rp);
	if (rp.status != GOOD)
		complain(rq->cdb, &rp);
	finish(rp.status);
}

/* status */

/*
 * Has a path to this port the key? As many registrations as there are paths
 * to it, by the ports of all: yes; len of a full status is in data. -1:
 * unknown.
 */
static int
has_key(int port, const int ports[], int paths, uint64_t key, int len)
{
	const uint8_t *d;
	uint32_t at = 0;
	int i, n = 0;

	if (port < 0 || len < 0)
		return -1;
	for (i = 0; i < paths; i++)
		n -= ports[i] == port;
	while ((d = next_full(&at, (uint32_t)len)))
		n += get64(d) == key && port_of(d) == port;
	return n >= 0;
}

static void
print_path(const struct path *p, const struct lun *l, int key)
{
	static const char has[][8] = { "unknown", "no", "yes" };
	static const struct mark unknown = { .mark = MARK_NONE };
	const struct mark *mark = &unknown;
	char node[PATH_NAME], state[STATE_LEN];
	int i, stray;

	for (i = 0; i < l->n; i++)
		if (l->marks[i].dev == p->dev)
			mark = &l->marks[i];
	stray = mark->mark != MARK_CLEAN && (l->key || mark->mark);
	path_name(p->dev, node);
	path_state(p->dev, state);
	item("path");
	printf("%-6s %u:%-3u group %d %s %s, key %s, mark %s%s, next: %s\n",
	    node, major(p->dev), minor(p->dev), p->group, state,
	    p->active ? "active" : "failed", l->key ? has[key + 1] : "-",
	    marks[mark->mark][0], mark->failed ? " and failed by us" : "",
	    stray ? marks[mark->mark][1] : "nothing");
	if (strcmp(state, "running") != 0 || !p->active)
		worse(DEGRADED, "a path cannot be used");
	if (l->key && key == 0)
		worse(DEGRADED, "a path lacks the key");
	if (stray)
		worse(DEGRADED, "a path is not as it should be");
}

static void
print_map(struct request *rq, const struct map *m, const struct lun *l)
{
	char node[PATH_NAME];
	struct reply rp;
	int i, len, ports[PATHS_MAX];

	item("desired");
	printf(l->key ? "0x%llx%s\n" : "none%.0llu%s\n",
	    (unsigned long long)l->key, l->changing ? ", being changed" : "");
	if (l->changing)
		worse(DEGRADED, "its key is being changed");
	if (l->holder && path_name(l->holder, node) == 0) {
		item("through");
		puts(node);
	}
	len = l->key ? ask(rq, READ_FULL_STATUS, &rp) : -1;
	for (i = 0; i < m->n; i++)
		ports[i] = path_port(m->paths[i].dev);
	for (i = 0; i < m->n; i++)
		print_path(&m->paths[i], l,
		    has_key(ports[i], ports, m->n, l->key, len));
	if (m->n == 0)
		worse(FAILED, "it has no path");
}

/* What is known of a map: a copy, as others may want to change it. */
static void
recall(const char *wwid, struct lun *copy)
{
	struct lun *l = state_get(wwid, TURN_TIME);

	memset(copy, 0, sizeof(*copy));
	if (!l) {
		worse(DEGRADED, "somebody has been at it for long");
		return;
	}
	*copy = *l;
	state_put(l);
}

/* Of what a descriptor is, or of a map; returns its health. */
static int
status_of(int fd, dev_t dev)
{
	static const char healths[][12] = { "fine", "degraded: ", "failed: " };
	static struct map m;
	struct request rq = { .fd = fd, .dev = dev, .len = DATA_MAX };
	struct lun l = { .n = 0 };
	int n, r = DM_OTHER;

	health = FINE;
	why = "";
	m.wwid[0] = '\0';
	if (fd >= 0 && sg_node(&rq))
		path_wwid(rq.dev, m.wwid);
	else if ((r = dm_read(rq.dev, &m, 1)) == DM_MAP)
		recall(m.wwid, &l);
	call(rq.dev);
	item("lun");
	puts(m.wwid[0] ? m.wwid : "unknown");
	if ((n = read_all(&rq, READ_KEYS)) >= 0)
		print_keys((uint32_t)n);
	if (n >= 0 && (n = read_all(&rq, READ_RESERVATION)) >= 0)
		print_reservation((uint32_t)n);
	if (r == DM_MAP)
		print_map(&rq, &m, &l);
	item("health");
	printf("%s%s\n", healths[health], why);
	return health;
}

/* Of all maps that a helper looks after, or of those that are named. */
static _Noreturn void
status(char *const *argv)
{
	char wwid[WWID_LEN];
	struct lun l;
	const int all = !*argv;
	int i = 0, fd, r, worst = FINE;

	while (all && state_next(&i, wwid) == 0) {
		recall(wwid, &l);
		device = wwid;
		if ((r = status_of(-1, l.map)) > worst)
			worst = r;
	}
	for (; *argv; argv++) {
		device = *argv;
		fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			warn("%s:", device);
		r = fd < 0 ? FAILED : status_of(fd, 0);
		if (r > worst)
			worst = r;
		close(fd);
	}
	finish(worst);
}

/* The command line */

static void
help(void)
{
	size_t i;

	puts("usage: prhelper status [--state=DIR] [DEVICE...]\n"
	     "       prhelper in|out ACTION [options] DEVICE\n");
	for (i = 0; i < LEN(actions); i++)
		printf("  %-3s  %-15s or -%c\n",
		    actions[i].opcode == PR_IN ? "in" : "out", actions[i].word,
		    actions[i].letter);
	puts("\n"
	     "  -K, --param-rk=KEY      reservation key\n"
	     "  -S, --param-sark=KEY    service action reservation key\n"
	     "  -T, --prout-type=TYPE   1, 3, 5, 6, 7 or 8\n"
	     "  -Y, --param-alltgpt     ALL_TG_PT\n"
	     "  -Z, --param-aptpl       APTPL\n"
	     "  -l, --alloc-length=LEN  at most 2000\n"
	     "  --socket=PATH           let this helper do it\n"
	     "  --state=DIR             of the helper that has the map\n"
	     "All numbers are hexadecimal.");
	finish(0);
}

/* The action that has this letter, or this word. */
static const struct action *
find_action(int opcode, int letter, const char *word)
{
	size_t i;

	for (i = 0; i < LEN(actions); i++)
		if (actions[i].opcode == opcode &&
		    (word ? strcmp(actions[i].word, word) == 0 :
			    actions[i].letter == letter))
			return &actions[i];
	return NULL;
}

static void
parse(struct command *c, int opcode, int argc, char *argv[])
{
	static const char shorts[] = ":hkrcsGIRLCPAzK:S:T:YZl:";
	/* clang-format off */
	static const struct option longs[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "param-rk", required_argument, NULL, 'K' },
		{ "param-sark", required_argument, NULL, 'S' },
		{ "prout-type", required_argument, NULL, 'T' },
		{ "param-alltgpt", no_argument, NULL, 'Y' },
		{ "param-aptpl", no_argument, NULL, 'Z' },
		{ "alloc-length", required_argument, NULL, 'l' },
		{ "socket", required_argument, NULL, 1 },
		{ "state", required_argument, NULL, 2 },
		{ NULL, 0, NULL, 0 }
	};
	/* clang-format on */
	const struct option *l;
	int o;

	opterr = 0;
	while ((o = getopt_long(argc, argv, shorts, longs, NULL)) >= 0) {
		switch (o) {
		case 'h': help(); break;
		case 'K': c->key = hex("-K", optarg, UINT64_MAX); break;
		case 'S': c->sa_key = hex("-S", optarg, UINT64_MAX); break;
		case 'T':
			c->type = (uint8_t)hex("-T", optarg, TYPE_MASK);
			break;
		case 'Y': c->flags |= ALL_TG_PT; break;
		case 'Z': c->flags |= APTPL; break;
		case 'l': c->len = (uint32_t)hex("-l", optarg, DATA_MAX); break;
		case 1: greet(optarg); break;
		case 2: state_dir = optarg; break;
		case ':':
			for (l = longs; l->val != optopt; l++)
				;
			die("option --%s: needs an argument", l->name);
		default:
			if (c->action || o == '?' ||
			    !(c->action = find_action(opcode, o, NULL)))
				die("option %s: not here; see -h",
				    argv[optind - 1]);
		}
	}
}

/* The words, and how much of what is in the table they take. */
static const struct {
	char word[8];
	int opcode, flags;
} words[] = {
	{ "status", 0, 0 },
	{ "in", PR_IN, O_RDONLY },
	{ "out", PR_OUT, O_RDWR },
};

static size_t
find_word(const char *s)
{
	size_t i;

	for (i = 0; i < LEN(words) && strcmp(words[i].word, s) != 0; i++)
		;
	return i;
}

int
ctl_knows(const char *word)
{
	return find_word(word) < LEN(words);
}

void
ctl(int argc, char *argv[])
{
	struct command c = { .len = DATA_MAX };
	struct request rq = { .data = data };
	const size_t w = find_word(argv[0]);
	const int opcode = words[w].opcode;
	int plain = 0;

	if (!opcode)
		die_status = FAILED;
	parse(&c, opcode, argc, argv);
	argv += optind;
	argc -= optind;
	if (opcode && !c.action && argc > 0) {
		if (!(c.action = find_action(opcode, 0, *argv)))
			die("action %s: unknown; see -h", *argv);
		argv++;
		argc--;
	}
	if (opcode && (!c.action || argc != 1))
		die("%s: wants one action and one device; see -h",
		    words[w].word);
	if (opcode) {
		device = argv[0];
		rq.fd = open(device, words[w].flags | O_NONBLOCK | O_CLOEXEC);
		if (rq.fd < 0)
			die("%s:", device);
		plain = sg_node(&rq);
		call(rq.dev);
	}
	/* Who only looks leaves nothing behind. */
	if (helper < 0 && dm_init() &&
	    (opcode == PR_OUT ? !plain :
				!opcode && access(state_dir, F_OK) == 0))
		state_open(state_dir, NULL);
	if (!opcode)
		status(argv);
	if (opcode == PR_IN)
		run_in(&rq, &c);
	run_out(&rq, &c);
}
