/* See LICENSE file for copyright and license details. */
/*
 * dm_read() and dm_queues(): which device-mapper devices are a multipath map,
 * and what is said when the library fails. dm_use_path(): the messages.
 * dm_wait(): what wakes it. The linker chooses this file's libdevmapper,
 * access(), open() and ioctl() of the control node, and path.c.
 */
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <linux/dm-ioctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "check.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MAP "2 0 0 0 2 1 A 0 1 0 8:16 A 0 E 0 1 0 8:32 F 2 "

enum { DM_MAJOR = 253 };

struct target {
	uint64_t start, len;
	const char *type, *status, *table;
};

/* The devices 253:0 and so on. */
static const struct device {
	const char *name;
	int want;
	unsigned int below; /* minor of the map that it leads to */
	struct target t[3];
} devices[] = {
	{ "a map", DM_MAP, 0,
	  { { 0, 1000, "multipath", MAP,
		"1 queue_if_no_path 1 alua 2 1 x 0 1 1 8:16 1 "
		"x 0 1 1 8:32 1" } } },
	{ "linear over the map", DM_MAP, 0,
	  { { 0, 1000, "linear", "", "253:0 0" } } },
	{ "linear over that", DM_MAP, 0,
	  { { 0, 1000, "linear", "", "253:1 0" } } },
	{ "a third level", DM_MAP, 0,
	  { { 0, 1000, "linear", "", "253:2 0" } } },
	{ "a fourth level", DM_MAP, 0,
	  { { 0, 1000, "linear", "", "253:3 0" } } },
	{ "a fifth level", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "253:4 0" } } },
	{ "linear over itself", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "253:6 0" } } },
	{ "linear over a part", DM_OTHER, 0,
	  { { 0, 999, "linear", "", "253:0 0" } } },
	{ "linear over the end", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "253:0 1" } } },
	{ "linear over more", DM_OTHER, 0,
	  { { 0, 1001, "linear", "", "253:0 0" } } },
	{ "two linear targets", DM_OTHER, 0,
	  { { 0, 500, "linear", "", "253:0 0" },
	    { 500, 500, "linear", "", "253:0 500" } } },
	{ "two maps", DM_OTHER, 0,
	  { { 0, 500, "multipath", MAP, "" },
	    { 500, 500, "multipath", MAP, "" } } },
	{ "a map that starts later", DM_OTHER, 0,
	  { { 8, 1000, "multipath", MAP, "" } } },
	{ "linear over a disk", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "8:16 0" } } },
	{ "linear with a broken table", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "253:0" } } },
	{ "linear with more words", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "253:0 0 0" } } },
	{ "linear by name", DM_OTHER, 0,
	  { { 0, 1000, "linear", "", "mp 0" } } },
	{ "striped", DM_OTHER, 0,
	  { { 0, 1000, "striped", "2 8:0 8:16 1 AA", "" } } },
	{ "no table", DM_OTHER, 0, { { 0, 0, NULL, NULL, NULL } } },
	{ "a broken map", DM_BROKEN, 0,
	  { { 0, 1000, "multipath", "2 0 0 0 1 1 A 0 1 0 8:0", "" } } },
	{ "linear over a broken map", DM_BROKEN, 0,
	  { { 0, 1000, "linear", "", "253:19 0" } } },
	{ "a map without a path", DM_MAP, 21,
	  { { 0, 1000, "multipath", "2 0 0 0 0 0 ",
		"3 queue_mode bio retain_attached_hw_handler 0 0 0" } } },
	{ "a map that queues", DM_MAP, 22,
	  { { 0, 1000, "multipath", "2 0 0 0 0 0 ",
		"2 retain_attached_hw_handler queue_if_no_path 0 0 0" } } },
	{ "the word elsewhere", DM_MAP, 23,
	  { { 0, 1000, "multipath", "2 0 0 0 0 0 ",
		"0 1 queue_if_no_path 0 0" } } },
	{ "a longer word", DM_MAP, 24,
	  { { 0, 1000, "multipath", "2 0 0 0 0 0 ",
		"1 queue_if_no_path_ 0 0 0" } } },
	{ "a part of the word", DM_MAP, 25,
	  { { 0, 1000, "multipath", "2 0 0 0 0 0 ",
		"1 queue_if_no_pat 0 0 0" } } },
	{ "a count above the words", DM_MAP, 26,
	  { { 0, 1000, "multipath", "2 0 0 0 0 0 ", "9 a" } } },
};

struct dm_task {
	int type, major, minor, next, no_flush, no_open_count;
	char message[64];
};

static int driver = 1, run_errno, no_memory, tasks;
static int64_t release; /* it hangs until then */
static int control = 1, calls;
static atomic_int stuck; /* 1: the library is to hang, 2: it does */
static const char *version = "4.47.0";
static char sent[96];                            /* the last message */
static int events = -1, opened, armed, arm_errno; /* of the control node */

struct dm_task *
dm_task_create(int type)
{
	struct dm_task *t;

	calls++;
	if (no_memory || !(t = calloc(1, sizeof(*t))))
		return NULL;
	t->type = type;
	tasks++;
	return t;
}

void
dm_task_destroy(struct dm_task *t)
{
	tasks--;
	free(t);
}

int
dm_task_set_major_minor(struct dm_task *t, int ma, int mi, int fallback)
{
	t->major = ma;
	t->minor = mi;
	return !fallback;
}

int
dm_task_no_flush(struct dm_task *t)
{
	return t->no_flush = 1;
}

int
dm_task_no_open_count(struct dm_task *t)
{
	return t->no_open_count = 1;
}

int
dm_task_set_message(struct dm_task *t, const char *message)
{
	snprintf(t->message, sizeof(t->message), "%s", message);
	return 1;
}

static int
known(const struct dm_task *t)
{
	return t->major == DM_MAJOR && t->minor < (int)LEN(devices);
}

/* The library hides ENXIO for a status: then there are no targets. */
int
dm_task_run(struct dm_task *t)
{
	while (atomic_load(&stuck)) {
		atomic_store(&stuck, 2);
		wait_until(now() + 1);
		if (now() >= release)
			atomic_store(&stuck, 0);
	}
	if (run_errno || !t->no_flush || !t->no_open_count)
		return 0;
	if (t->type == DM_DEVICE_TARGET_MSG)
		snprintf(sent, sizeof(sent), "%d %s", t->minor, t->message);
	return known(t) || t->type == DM_DEVICE_STATUS;
}

int
dm_task_get_errno(struct dm_task *t)
{
	return run_errno || known(t) ? run_errno : ENXIO;
}

void *
dm_get_next_target(struct dm_task *t, void *next, uint64_t *start,
	uint64_t *len, char **type, char **params)
{
	const struct target *g;

	*type = *params = NULL;
	*start = *len = 0;
	if (!known(t) || !devices[t->minor].t[0].type)
		return NULL;
	g = next ? next : devices[t->minor].t;
	*start = g->start;
	*len = g->len;
	*type = (char *)(uintptr_t)g->type;
	*params = (char *)(uintptr_t)(t->type == DM_DEVICE_TABLE ? g->table :
		g->status);
	return g[1].type ? (void *)(uintptr_t)&g[1] : NULL;
}

int
dm_driver_version(char *buf, size_t size)
{
	calls++;
	snprintf(buf, size, "%s", version);
	return driver;
}

void
dm_hold_control_dev(int hold)
{
	calls += !!hold;
}

void
dm_log_with_errno_init(dm_log_with_errno_fn fn)
{
	calls += !!fn;
}

void
dm_lib_exit(void)
{
}

int
access(const char *path, int how)
{
	(void)how;
	if (control && strcmp(path, "/dev/mapper/control") == 0)
		return 0;
	errno = ENOENT;
	return -1;
}

int
open(const char *path, int flags, ...)
{
	va_list ap;
	int perm;

	va_start(ap, flags);
	perm = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	if (strcmp(path, "/dev/mapper/control") != 0)
		return (int)syscall(SYS_openat, AT_FDCWD, path, flags, perm);
	opened++;
	return events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* As the kernel checks it. */
int
ioctl(int fd, ioctl_t request, ...)
{
	const struct dm_ioctl *d;
	uint64_t count;
	va_list ap;

	va_start(ap, request);
	d = va_arg(ap, struct dm_ioctl *);
	va_end(ap);
	errno = arm_errno;
	if (arm_errno || fd != events ||
		(unsigned int)request != DM_DEV_ARM_POLL ||
		d->version[0] != 4 || d->version[1] > 37 || d->flags ||
		d->data_size < offsetof(struct dm_ioctl, data) ||
		d->name[0] || d->uuid[0])
		return -1;
	armed++;
	(void)!read(fd, &count, sizeof(count));
	return 0;
}

/* The second path of a map knows its name, the first is gone. */
static const char *names[] = { NULL, "naa.6001405" };

int
path_wwid(dev_t dev, char wwid[WWID_LEN])
{
	const char *name = names[dev == makedev(8, 32)];

	if (name)
		snprintf(wwid, WWID_LEN, "%s", name);
	return name ? 0 : -1;
}

uint64_t
path_size(dev_t dev)
{
	return dev == makedev(8, 48) ? 0 : 1000;
}

static struct map hung_map;
static int
reading(unsigned int minor, struct map *m)
{
	memset(m, 0xee, sizeof(*m));
	return dm_read(makedev(DM_MAJOR, minor), m, 1);
}

static void
start(void)
{
	struct map m;

	check(reading(0, &m) == DM_OTHER && calls == 0,
		"before dm_init() nothing is asked");
	control = 0;
	check(dm_init() == 0 && calls == 0,
		"no control node: nothing of the library is called");
	check(reading(0, &m) == DM_OTHER && calls == 0, "nor later");
	control = 1;
	driver = 0;
	check(dm_init() == 0 && reading(0, &m) == DM_OTHER,
		"a kernel that does not answer: no device-mapper");
	driver = 1;
	check(dm_init() == 1, "a kernel that does");
}

static void
kinds(void)
{
	struct map m;
	unsigned int i;

	for (i = 0; i < LEN(devices); i++)
		check(reading(i, &m) == devices[i].want &&
			(devices[i].want != DM_MAP ||
				m.dev == makedev(DM_MAJOR, devices[i].below)),
			devices[i].name);
	reading(4, &m);
	check(m.n == 2 && m.paths[0].dev == makedev(8, 16) &&
		m.paths[0].active && m.paths[0].group == m.group &&
		m.paths[1].dev == makedev(8, 32) && !m.paths[1].active &&
		m.paths[1].group != m.group, "the paths of the map below");
	check(strcmp(m.wwid, "naa.6001405") == 0,
		"the name of the unit is of the first path that has one");
	names[0] = "naa.6001405";
	check(reading(0, &m) == DM_MAP && strcmp(m.wwid, names[0]) == 0,
		"both paths have it");
	names[0] = "naa.600140";
	check(reading(0, &m) == DM_BROKEN, "paths of two units");
	check(dm_read(makedev(DM_MAJOR, 0), &m, 0) == DM_MAP &&
		m.n == 2 && m.wwid[0] == '\0', "for who does not ask: a map");
	names[0] = names[1] = NULL;
	check(reading(0, &m) == DM_MAP && m.wwid[0] == '\0',
		"no path has a name");
	names[1] = "naa.6001405";
	reading(21, &m);
	check(m.n == 0 && m.wwid[0] == '\0', "no path, no name");
	check(reading(200, &m) == DM_OTHER, "a device that is gone");
	check(dm_read(makedev(8, 0), &m, 1) == DM_OTHER, "a disk");
	check(dm_read(0, &m, 1) == DM_OTHER && tasks == 0, "no block device");
}

static void
queues(void)
{
	static const struct {
		unsigned int minor;
		int want;
	} t[] = { { 0, 1 }, { 21, 0 }, { 22, 1 }, { 23, 0 }, { 24, 0 },
		{ 25, 0 }, { 26, 0 } };
	struct map m;
	char name[96];
	size_t i;

	for (i = 0; i < LEN(t); i++) {
		reading(t[i].minor, &m);
		snprintf(name, sizeof(name), "%s: %s",
			devices[t[i].minor].name,
			t[i].want ? "queues" : "does not queue");
		check(dm_queues(&m) == t[i].want, name);
	}
	m.dev = makedev(DM_MAJOR, 200);
	check(dm_queues(&m) == 0, "a map that is gone does not queue");
}

static void
failures(void)
{
	static const struct {
		int err, want;
	} t[] = { { ENXIO, DM_OTHER }, { ENOMEM, DM_BUSY },
		{ EINTR, DM_BUSY }, { 0, DM_BUSY }, { EACCES, DM_BROKEN },
		{ EINVAL, DM_BROKEN } };
	struct map m;
	char name[96];
	size_t i;

	for (i = 0; i < LEN(t); i++) {
		run_errno = t[i].err;
		if (!t[i].err)
			no_memory = 1;
		snprintf(name, sizeof(name), "the library fails: %s",
			t[i].err ? strerror(t[i].err) : "no task");
		check(reading(0, &m) == t[i].want, name);
		no_memory = 0;
	}
	run_errno = 0;
	check(reading(0, &m) == DM_MAP, "and works again");
	check(tasks == 0, "no task is left behind");
}

static void *
hanging(void *arg)
{
	*(int *)arg = dm_read(makedev(DM_MAJOR, 0), &hung_map, 1);
	return NULL;
}

/* The library has one user at a time, and the next does not wait for ever. */
static void
turns(void)
{
	pthread_t t;
	struct map m;
	int64_t began;
	int r = -1;

	release = now() + 10 * DM_TIME;
	atomic_store(&stuck, 1);
	pthread_create(&t, NULL, hanging, &r);
	while (atomic_load(&stuck) != 2)
		wait_until(now() + 1);
	began = now();
	check(reading(0, &m) == DM_BUSY, "no turn at the library");
	check(now() - began >= DM_TIME - 20 && atomic_load(&stuck),
		"after a second, not after the other");
	check(dm_queues(&m) == 1, "a map may queue if nobody can say");
	check(dm_use_path(&m, makedev(8, 16), 0) == -1, "nor for a message");
	atomic_store(&stuck, 0);
	pthread_join(t, NULL);
	check(r == DM_MAP && hung_map.n == 2, "the one that hung has its map");
	check(reading(0, &m) == DM_MAP, "and the next one, too");
}

static void
messages(void)
{
	struct map m = { .dev = makedev(DM_MAJOR, 0) };

	check(dm_use_path(&m, makedev(8, 16), 0) == 0 &&
		strcmp(sent, "0 fail_path 8:16") == 0, sent);
	check(dm_use_path(&m, makedev(65, 240), 1) == 0 &&
		strcmp(sent, "0 reinstate_path 65:240") == 0, sent);
	check(dm_use_group(&m, 2) == 0 && strcmp(sent, "0 switch_group 2") == 0,
		sent);
	run_errno = EBUSY;
	check(dm_use_path(&m, makedev(8, 16), 0) == -1, "a suspended map");
	run_errno = 0;
	m.dev = makedev(DM_MAJOR, 200);
	check(dm_use_path(&m, makedev(8, 16), 0) == -1, "a map that is gone");
	no_memory = 1;
	check(dm_use_path(&m, makedev(8, 16), 0) == -1, "no memory");
	no_memory = 0;
	check(tasks == 0, "no task is left behind");
}

static void
nothing(int sig)
{
	(void)sig;
}

/* How long it waits, about. */
static int64_t
waits(int ms)
{
	int64_t began = now();

	dm_wait(ms);
	return now() - began;
}

static int
about(int64_t ms, int64_t want)
{
	return ms >= want - 5 && ms < want + 300;
}

static void
change(void)
{
	const uint64_t one = 1;

	if (write(events, &one, sizeof(one)) < 0)
		failed++;
}

static void
begin(const char *v)
{
	version = v;
	opened = 0;
	dm_init();
}

static void
waiting(void)
{
	struct itimerval soon = { .it_value.tv_usec = 100000 };
	struct sigaction sa = { .sa_handler = nothing };

	begin("4.37.0");
	check(opened == 1, "dm 4.37: its events are watched");
	check(about(waits(100), 100) && armed == 0, "nothing happens");
	check(about(waits(0), 0), "no time to wait");
	change();
	check(about(waits(-1), 0) && armed == 1, "a change before");
	check(about(waits(100), 100), "which is reported once");
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	check(about(waits(10000), 100) && armed == 1, "a signal ends it");
	arm_errno = EACCES;
	change();
	check(about(waits(-1), 0), "a change that cannot be awaited again");
	arm_errno = 0;
	check(about(waits(-1), LOOK_TIME), "then it is looked now and then");
	check(about(waits(100), 100), "or sooner");
	begin("4.36.0");
	check(opened == 0, "dm 4.36: no events");
	begin("5.40.0");
	check(opened == 0, "dm 5: unknown");
	begin("4.");
	check(opened == 0, "no version");
	check(about(waits(LOOK_TIME + 5000), LOOK_TIME),
		"without events never longer");
}

int
main(void)
{
	verbosity = LOG_ERRORS;
	start();
	kinds();
	queues();
	failures();
	turns();
	messages();
	waiting();
	printf("1..%d\n", tests);
	return failed != 0;
}
