/* See LICENSE file for copyright and license details. */
/*
 * The only user of libdevmapper. Nothing of it is called before the kernel
 * is known to have device-mapper: the library would create its control node
 * and complain on stderr. It is not made for threads: one at a time.
 */
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <linux/dm-ioctl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

#define CONTROL "/dev/mapper/control"

enum {
	LEVELS = 4,      /* linear targets on top of each other */
	DIGITS = 9,      /* of a number that fits an int for sure */
	POLL_MINOR = 37, /* from 4.37 on poll() tells of events */
	DM_BELOW = -1,   /* linear over the whole of another device */
};

/* A line of the kernel, word by word. */
struct words {
	const char *word; /* ends where len says */
	size_t len;       /* 0: before the first word, or after the last */
};

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;
static int present;
static int events = -1;     /* wakes poll() when a map has changed */
static int64_t quiet_until; /* no warning before */

static void
dm_log(int level, const char *file, int line, int err, const char *fmt, ...)
{
	(void)level;
	(void)file;
	(void)line;
	(void)err;
	(void)fmt;
}

static int
next(struct words *w)
{
	w->word += w->len;
	w->word += strspn(w->word, " ");
	w->len = strcspn(w->word, " ");
	return w->len > 0;
}

/* How many of these bytes are digits? */
static size_t
digits(const char *s)
{
	return strspn(s, "0123456789");
}

/* Decimal digits of this length as a number; -1 if they are anything else. */
static int
decimal(const char *s, size_t len)
{
	int n = 0;

	if (len < 1 || len > DIGITS || digits(s) < len)
		return -1;
	while (len-- > 0)
		n = n * 10 + (*s++ - '0');
	return n;
}

int
dm_init(void)
{
	char version[32];
	int err;

	if (access(CONTROL, F_OK) < 0)
		return 0;
	dm_log_with_errno_init(dm_log);
	dm_hold_control_dev(1);
	errno = 0;
	if (!dm_driver_version(version, sizeof(version))) {
		err = errno;
		/* Else each later task would fail for this first one. */
		dm_lib_exit();
		errno = err;
		/* In a container: its device cgroup, or no CAP_SYS_ADMIN. */
		if (err == EPERM || err == EACCES)
			warn("multipath maps are refused: " CONTROL ":");
		if (err == ENOENT) /* libdevmapper looks there */
			warn("multipath maps are refused: /proc/devices:");
		return 0;
	}
	say(LOG_VERBOSE, "device-mapper %s", version);
	/* Linux 4.14; 4.13 is able to, but does not say so. */
	if (strncmp(version, "4.", 2) == 0 &&
	    decimal(version + 2, digits(version + 2)) >= POLL_MINOR)
		events = open(CONTROL, O_RDONLY | O_CLOEXEC);
	return present = 1;
}

static int
next_count(struct words *w)
{
	return next(w) ? decimal(w->word, w->len) : -1;
}

/* One of these letters, or -1. */
static int
next_letter(struct words *w, const char *letters)
{
	return next(w) && w->len == 1 && strchr(letters, *w->word) ? *w->word :
								     -1;
}

static int
next_dev(struct words *w, dev_t *dev)
{
	size_t len;
	int ma, mi;

	if (!next(w))
		return -1;
	len = digits(w->word);
	if (len >= w->len || w->word[len] != ':')
		return -1;
	ma = decimal(w->word, len);
	mi = decimal(w->word + len + 1, w->len - len - 1);
	if (ma < 0 || mi < 0)
		return -1;
	*dev = makedev((unsigned int)ma, (unsigned int)mi);
	return 0;
}

static int
skip(struct words *w, int n)
{
	while (n > 0 && next(w))
		n--;
	return n ? -1 : 0;
}

/* What a path selector or a hardware handler says: a count, and so many. */
static int
skip_counted(struct words *w)
{
	return skip(w, next_count(w));
}

/* M:m A|F fails, and what the path selector has to say. */
static int
parse_path(struct words *w, struct map *m, int args, int group)
{
	struct path *p = &m->paths[m->n];
	int i, letter;

	if (m->n == PATHS_MAX || next_dev(w, &p->dev) < 0 ||
	    (letter = next_letter(w, "AF")) < 0)
		return -1;
	/* How often it failed: may have ten digits. */
	if (!next(w) || digits(w->word) < w->len)
		return -1;
	for (i = 0; i < m->n; i++)
		if (m->paths[i].dev == p->dev)
			return -1;
	p->active = letter == 'A';
	p->group = group;
	p->mute = 0;
	m->n++;
	return skip(w, args);
}

/* The paths of a group: how many, how many words for each, and they. */
static int
parse_paths(struct words *w, struct map *m, int group)
{
	int args, n;

	if (skip_counted(w) < 0 || (n = next_count(w)) < 0 ||
	    (args = next_count(w)) < 0)
		return -1;
	while (n-- > 0)
		if (parse_path(w, m, args, group) < 0)
			return -1;
	return 0;
}

/*
 * Which group is in use, drivers/md/dm-mpath.c: the one with an A. There is
 * none before the first I/O and after a switch: then it is the one that the
 * line names as the next.
 */
int
dm_parse(const char *params, struct map *m)
{
	struct words w = { params, 0 };
	int active = 0, g, groups, letter;

	m->n = 0;
	if (skip_counted(&w) < 0) /* features */
		return -1;
	if (skip_counted(&w) < 0 || /* hardware handler */
	    (groups = next_count(&w)) < 0 || (m->group = next_count(&w)) < 0 ||
	    m->group > groups)
		return -1;
	for (g = 1; g <= groups; g++) {
		letter = next_letter(&w, "ADE");
		if (letter < 0 || (letter == 'A' && active++))
			return -1;
		if (letter == 'A')
			m->group = g;
		if (parse_paths(&w, m, g) < 0)
			return -1;
	}
	return next(&w) ? -1 : 0;
}

/* The features of a table line: a count, and so many words. */
static int
has_feature(const char *params, const char *name)
{
	struct words w = { params, 0 };
	int n = next_count(&w);

	while (n-- > 0 && next(&w))
		if (w.len == strlen(name) && !strncmp(w.word, name, w.len))
			return 1;
	return 0;
}

static int
take_turn(void)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += DM_TIME / 1000;
	return pthread_mutex_timedlock(&library, &end) ? -1 : 0;
}

/* A guest that asks again and again must not fill the log. */
static int
may_warn(void)
{
	if (now() < quiet_until)
		return 0;
	quiet_until = now() + WARN_TIME;
	return 1;
}

/*
 * Ask for a device's status or table, or give it a message; a number that is
 * none of device-mapper's is ENXIO (dm-ioctl.c), which libdevmapper makes a
 * status without a target. NULL, and *r says why.
 */
static struct dm_task *
ask(int type, dev_t dev, const char *message, int *r)
{
	struct dm_task *t;
	int err;

	*r = DM_BUSY;
	if (!(t = dm_task_create(type)))
		return NULL;
	if (dm_task_set_major_minor(t, (int)major(dev), (int)minor(dev), 0) &&
	    dm_task_no_flush(t) && dm_task_no_open_count(t) &&
	    (!message || dm_task_set_message(t, message)) && dm_task_run(t))
		return t;
	err = dm_task_get_errno(t);
	dm_task_destroy(t);
	if (err == ENXIO)
		*r = DM_OTHER;
	else if (err && err != ENOMEM && err != EINTR)
		*r = DM_BROKEN;
	errno = err;
	if (*r == DM_BROKEN && !message && may_warn())
		warn("device-mapper %u:%u:", major(dev), minor(dev));
	return NULL;
}

/* Type and parameters of the only target; NULL if it is not the only one. */
static char *
only_target(struct dm_task *t, uint64_t *len, char **params)
{
	uint64_t start = 0;
	char *type = NULL;

	if (dm_get_next_target(t, NULL, &start, len, &type, params) || start ||
	    !*params)
		return NULL;
	return type;
}

/* The device below a linear target that covers the whole of it. */
static int
go_down(struct map *m)
{
	struct words w = { "", 0 };
	struct dm_task *t;
	uint64_t len = 0;
	char *type, *params = NULL;
	int r;

	if (!(t = ask(DM_DEVICE_TABLE, m->dev, NULL, &r)))
		return r;
	r = DM_OTHER;
	type = only_target(t, &len, &params);
	if (type && strcmp(type, "linear") == 0) {
		w.word = params;
		if (next_dev(&w, &m->dev) == 0 && next_count(&w) == 0 &&
		    !next(&w) && len == path_size(m->dev))
			r = DM_BELOW;
	}
	dm_task_destroy(t);
	return r;
}

static int
look(struct map *m)
{
	struct dm_task *t;
	uint64_t len = 0;
	char *type, *params = NULL;
	int r;

	if (!(t = ask(DM_DEVICE_STATUS, m->dev, NULL, &r)))
		return r;
	r = DM_OTHER;
	type = only_target(t, &len, &params);
	if (type && strcmp(type, "linear") == 0)
		r = go_down(m);
	else if (type && strcmp(type, "multipath") == 0)
		r = dm_parse(params, m) < 0 ? DM_BROKEN : DM_MAP;
	if (r == DM_BROKEN && params && may_warn())
		warn("multipath map %u:%u: the status line is not understood, "
		     "or has more than %d paths: %.200s",
		    major(m->dev), minor(m->dev), PATHS_MAX, params);
	dm_task_destroy(t);
	return r;
}

/* All paths must lead to one logical unit; gone ones have no name. */
static int
find_wwid(struct map *m)
{
	char wwid[WWID_LEN];
	int i;

	for (i = 0; i < m->n; i++) {
		if (path_wwid(m->paths[i].dev, wwid) < 0)
			continue;
		if (!m->wwid[0])
			memcpy(m->wwid, wwid, sizeof(wwid));
		if (strcmp(wwid, m->wwid) == 0)
			continue;
		if (may_warn())
			warn("multipath map %u:%u: path %u:%u is %s, not %s",
			    major(m->dev), minor(m->dev),
			    major(m->paths[i].dev), minor(m->paths[i].dev),
			    wwid, m->wwid);
		return -1;
	}
	return 0;
}

static void
trace_map(const struct map *m)
{
	char paths[384] = "";
	size_t len = 0;
	int i;

	for (i = 0; i < m->n && len < sizeof(paths) - 24; i++)
		len += (size_t)snprintf(paths + len, 24, " %u:%u=%c%s",
		    major(m->paths[i].dev), minor(m->paths[i].dev),
		    m->paths[i].active ? 'A' : 'F',
		    m->paths[i].group == m->group ? "*" : "");
	trace(TRACE_DM_MAP, "map=%u:%u wwid=%.90s n=%d%s", major(m->dev),
	    minor(m->dev), m->wwid, m->n, paths);
}

int
dm_read(dev_t dev, struct map *m, int named)
{
	int i, r = DM_BELOW;

	if (!present || !dev)
		return DM_OTHER;
	if (take_turn() < 0)
		return DM_BUSY;
	m->dev = dev;
	m->wwid[0] = '\0';
	for (i = 0; i <= LEVELS && r == DM_BELOW; i++)
		r = look(m);
	if (r == DM_MAP && named && find_wwid(m) < 0)
		r = DM_BROKEN;
	pthread_mutex_unlock(&library);
	if (r == DM_MAP && tracing[TRACE_DM_MAP])
		trace_map(m);
	return r == DM_BELOW ? DM_OTHER : r;
}

/* A suspended map says EBUSY; one without this path or group, EINVAL. */
static int
tell(const struct map *m, const char *message)
{
	struct dm_task *t;
	int r, done = -1;

	if (take_turn() < 0)
		return -1;
	if ((t = ask(DM_DEVICE_TARGET_MSG, m->dev, message, &r))) {
		done = 0;
		dm_task_destroy(t);
	}
	pthread_mutex_unlock(&library);
	trace(TRACE_PATH_STEP, "map=%u:%u %s: %s", major(m->dev), minor(m->dev),
	    message, done < 0 ? "refused" : "done");
	return done;
}

int
dm_use_path(const struct map *m, dev_t path, int use)
{
	char message[64];

	snprintf(message, sizeof(message), "%s_path %u:%u",
	    use ? "reinstate" : "fail", major(path), minor(path));
	return tell(m, message);
}

int
dm_use_group(const struct map *m, int group)
{
	char message[64];

	snprintf(message, sizeof(message), "switch_group %d", group);
	return tell(m, message);
}

/*
 * Armed before the caller looks, so that no change is missed. See dm_poll()
 * and dev_arm_poll() in drivers/md/dm-ioctl.c.
 */
void
dm_wait(int ms)
{
	struct dm_ioctl arm = { .version = { 4, POLL_MINOR, 0 },
		.data_size = sizeof(arm) };
	struct pollfd p = { .fd = events, .events = POLLIN };

	if (events < 0 && (ms < 0 || ms > LOOK_TIME))
		ms = LOOK_TIME;
	if (poll(&p, 1, ms) <= 0 ||
	    ioctl(events, (int)DM_DEV_ARM_POLL, &arm) == 0)
		return;
	/* Else poll() would not wait any more. */
	close(events);
	events = -1;
}

int
dm_queues(const struct map *m)
{
	struct dm_task *t;
	uint64_t len = 0;
	char *type, *params = NULL;
	int r;

	if (take_turn() < 0)
		return 1;
	if ((t = ask(DM_DEVICE_TABLE, m->dev, NULL, &r))) {
		type = only_target(t, &len, &params);
		r = type && has_feature(params, "queue_if_no_path");
		dm_task_destroy(t);
	} else {
		r = r == DM_BUSY;
	}
	pthread_mutex_unlock(&library);
	return r;
}
