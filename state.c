/* See LICENSE file for copyright and license details. */
/*
 * What is remembered of each logical unit, and whose turn it is: a unit is
 * lent to one command at a time. For a successor it is also kept in a file for
 * each unit. Neither SCSI nor device-mapper.
 */
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

enum {
	TEXT_MAX = 6144,         /* of a file: 440 bytes, 40 for each mark */
	NAME_LEN = 3 * WWID_LEN, /* of one, with its end */
	UNSURE = 1,              /* the hash of no text */
};

struct entry {
	struct lun lun; /* the first: who has it has the entry */
	uint64_t hash;  /* of the text in its file; 0: there is none */
};
static const char *const marks[] = { " none ", " clean ", " set ", " clear ",
	" gone ", " robbed ", " tainted " }; /* MARK_ */

/*
 * Filled from the front, each on the heap: a table of them would be large
 * enough for a huge page, which the first one would make resident.
 */
static struct entry *entries[LUNS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t returned;
static int files = -1; /* their directory; -1: in memory only */
static char boot[40] = "-";

static void
init(void)
{
	static int done;
	pthread_condattr_t attr;

	if (done)
		return;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&returned, &attr);
	pthread_condattr_destroy(&attr);
	done = 1;
}

/* Is there something that must not be forgotten? */
static int
matters(const struct lun *l)
{
	int i, yes = l->key || l->changing;

	for (i = 0; !yes && i < l->n; i++)
		yes = (l->marks[i].mark > MARK_CLEAN &&
			  l->marks[i].mark != MARK_GONE) ||
		    l->marks[i].failed;
	return yes;
}

/* Its entry, or one that can be made its own; NULL if there is none. */
static struct entry *
find(const char *wwid)
{
	struct entry *e, *spare = NULL;
	int i;

	for (i = 0; i < LUNS_MAX && (e = entries[i]); i++) {
		if (strcmp(e->lun.wwid, wwid) == 0)
			return e;
		if (!spare && !e->lun.busy && !matters(&e->lun))
			spare = e;
	}
	if (i < LUNS_MAX)
		e = entries[i] = malloc(sizeof(*e));
	else
		e = spare;
	if (e) {
		memset(e, 0, sizeof(*e));
		snprintf(e->lun.wwid, sizeof(e->lun.wwid), "%s", wwid);
	}
	return e;
}

static void
complain(const char *fmt, const char *wwid)
{
	static int64_t quiet_until;
	int64_t t = now();
	int quiet;

	pthread_mutex_lock(&lock);
	quiet = t < quiet_until;
	if (!quiet)
		quiet_until = t + WARN_TIME;
	pthread_mutex_unlock(&lock);
	if (!quiet)
		warn(fmt, wwid);
}

/* Its file's name: the wwid, all but letters, digits, '-' and '.' in hex. */
static void
file_name(char name[NAME_LEN], const char *wwid)
{
	uint8_t c;

	while ((c = (uint8_t)*wwid++))
		name += snprintf(name, 4,
		    isalnum(c) || c == '-' || c == '.' ? "%c" : "_%02x", c);
}

/* The length of the text, 0 if there is nothing to write down. */
static size_t
print(char text[TEXT_MAX], const struct lun *l)
{
	const struct mark *m;
	size_t n;

	if (!matters(l))
		return 0;
	n = (size_t)snprintf(text, TEXT_MAX,
	    "prhelper-state 1\nboot %s\nwwid %s\nkey %llx\nold %llx\n"
	    "changing %d\nghosts %d\naptpl %d\nmap %u:%u\nholder %u:%u",
	    boot, l->wwid, (unsigned long long)l->key,
	    (unsigned long long)l->old, l->changing, l->ghosts, l->aptpl,
	    major(l->map), minor(l->map), major(l->holder), minor(l->holder));
	for (m = l->marks; m < l->marks + l->n; m++)
		n += (size_t)snprintf(text + n, TEXT_MAX - n,
		    "\nmark %u:%u%s%d", major(m->dev), minor(m->dev),
		    marks[m->mark], m->failed);
	return n + (size_t)snprintf(text + n, TEXT_MAX - n, "\nend\n");
}

/* The number behind the next blank. */
static uint64_t
number_at(char **p, int base)
{
	*p += strcspn(*p, " ");
	return strtoull(*p, p, base);
}

static dev_t
dev_at(char **p)
{
	unsigned int ma = (unsigned int)number_at(p, 10), mi;

	*p += strspn(*p, ":");
	mi = (unsigned int)strtoull(*p, p, 10);
	/* musl's is a macro that evaluates its arguments twice */
	return makedev(ma, mi);
}

/* 0, or -1: the path has a mark already. */
static int
mark_at(char **p, struct lun *l)
{
	struct mark *m = &l->marks[l->n++];
	int i;

	m->dev = dev_at(p);
	for (i = MARK_NONE; i <= MARK_TAINTED; i++)
		if (strncmp(*p, marks[i], strlen(marks[i])) == 0)
			m->mark = (uint8_t)i;
	*p += strspn(*p, " ");
	m->failed = (uint8_t)number_at(p, 2);
	for (i = 0; l->marks[i].dev != m->dev; i++)
		;
	return i == l->n - 1 ? 0 : -1;
}

/* Hardly looked at on the way: it must print as it was. */
int
state_parse(const char *text, size_t len, struct lun *l)
{
	char copy[TEXT_MAX + 1], again[TEXT_MAX], *p;
	size_t n;

	memset(l, 0, sizeof(*l));
	if (len > TEXT_MAX)
		return -1;
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (!(p = strstr(copy, "\nwwid ")))
		return -1;
	p += strlen("\nwwid ");
	if ((n = strcspn(p, "\n")) < 1 || n >= WWID_LEN)
		return -1;
	memcpy(l->wwid, p, n);
	p += n;
	l->key = number_at(&p, 16);
	l->old = number_at(&p, 16);
	l->changing = (uint8_t)number_at(&p, 2);
	l->ghosts = (uint8_t)number_at(&p, 10);
	l->aptpl = (uint8_t)number_at(&p, APTPL_ON + 1);
	l->map = dev_at(&p);
	l->holder = dev_at(&p);
	while (l->n < MARKS_MAX && strncmp(p, "\nmark ", 6) == 0)
		if (mark_at(&p, l) < 0)
			return -1;
	return print(again, l) == len && memcmp(again, text, len) == 0 ? 0 : -1;
}

/* Whoever reads, or comes after us, finds all of the text, or the old one. */
static int
write_file(const char *name, const char *text, size_t len)
{
	char tmp[NAME_LEN + 16];
	ssize_t n;
	int err, fd;

	snprintf(tmp, sizeof(tmp), "~%ld.%s", (long)getpid(), name);
	fd = openat(files, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	for (; len > 0 && (n = write(fd, text, len)) > 0; len -= (size_t)n)
		text += n;
	if (close(fd) == 0 && len == 0 &&
	    renameat(files, tmp, files, name) == 0)
		return 0;
	err = errno;
	unlinkat(files, tmp, 0);
	errno = err;
	return -1;
}

static uint64_t
hash(const char *text, size_t len)
{
	uint64_t h = 0;

	while (len-- > 0)
		h = (h ^ (uint8_t)*text++) * 0x100000001b3; /* FNV */
	return h;
}

void
state_save(struct lun *l)
{
	struct entry *e = (struct entry *)l;
	char name[NAME_LEN], text[TEXT_MAX];
	size_t len = print(text, l);
	uint64_t h = hash(text, len);

	if (files < 0 || h == e->hash)
		return;
	e->hash = h;
	file_name(name, l->wwid);
	if (len && write_file(name, text, len) == 0)
		return;
	if (len)
		complain("state file of %s:", l->wwid);
	/* What is there must not pass for the truth. */
	e->hash = 0;
	if (unlinkat(files, name, 0) < 0 && errno != ENOENT) {
		complain("state file of %s: cannot be removed:", l->wwid);
		e->hash = UNSURE;
	}
}

struct lun *
state_get(const char *wwid)
{
	int64_t end = now() + TURN_TIME;
	const struct timespec ts = {
		.tv_sec = (time_t)(end / 1000),
		.tv_nsec = (long)(end % 1000) * 1000000,
	};
	struct entry *e;
	int got;

	pthread_mutex_lock(&lock);
	init();
	/* Looked up anew each time: the entry may be another's by now. */
	while ((e = find(wwid)) && e->lun.busy && now() < end)
		pthread_cond_timedwait(&returned, &lock, &ts);
	got = e && !e->lun.busy;
	if (got)
		e->lun.busy = 1;
	pthread_mutex_unlock(&lock);
	if (!e)
		complain("%s: no room to remember it beside others", wwid);
	return got ? &e->lun : NULL;
}

void
state_put(struct lun *l)
{
	state_save(l);
	pthread_mutex_lock(&lock);
	l->busy = 0;
	pthread_cond_broadcast(&returned);
	pthread_mutex_unlock(&lock);
}

int
state_next(int *i, char wwid[WWID_LEN])
{
	const struct lun *l;
	int r = -1;

	pthread_mutex_lock(&lock);
	for (; r < 0 && *i < LUNS_MAX && entries[*i]; ++*i) {
		l = &entries[*i]->lun;
		/* Only who has it may look into it; that one sees to it. */
		if (l->busy || !matters(l))
			continue;
		memcpy(wwid, l->wwid, WWID_LEN);
		r = 0;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int
state_busy(void)
{
	int i, busy = 0;

	pthread_mutex_lock(&lock);
	for (i = 0; i < LUNS_MAX && entries[i]; i++)
		busy |= entries[i]->lun.busy;
	pthread_mutex_unlock(&lock);
	return busy;
}

static int
trusted(const struct stat *st, const struct ids *ids)
{
	if ((st->st_uid == geteuid() || st->st_uid == ids->uid) &&
	    !(st->st_mode & (S_IWGRP | S_IWOTH)))
		return 1;
	errno = EPERM;
	return 0;
}

static void
load(const char *file, const struct ids *ids)
{
	char text[TEXT_MAX + 1], name[NAME_LEN];
	struct stat st;
	struct entry *e = NULL;
	struct lun l;
	ssize_t n = -1;
	int fd;

	fd =
	    openat(files, file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    trusted(&st, ids))
		n = read(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	if (n > 0 && state_parse(text, (size_t)n, &l) == 0) {
		file_name(name, l.wwid);
		e = strcmp(name, file) == 0 ? find(l.wwid) : NULL;
	}
	l.loaded = 1;
	if (e)
		*e = (struct entry){ l, hash(text, (size_t)n) };
	else
		say(LOG_VERBOSE, "state file %s: not of ours and this boot",
		    file);
}

static int
open_dir(const char *dir, const struct ids *ids)
{
	struct stat st;
	int fd = -1;

	/* An empty one may be of another user whom we had. */
	if (lstat(dir, &st) == 0 && !trusted(&st, ids))
		rmdir(dir);
	if ((mkdir(dir, 0700) == 0 || errno == EEXIST) &&
	    (fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) >=
		0 &&
	    fstat(fd, &st) == 0 && trusted(&st, ids) &&
	    fchown(fd, ids->uid, ids->gid) == 0)
		return fd;
	warn("state directory %s: not used%s:", dir,
	    fd < 0 ? "" : "; it must be ours, and writable for nobody else");
	if (fd >= 0)
		close(fd);
	return -1;
}

int
state_open(const char *dir, const struct ids *ids)
{
	const struct dirent *f;
	DIR *d;
	int fd;

	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, boot, sizeof(boot) - 1) > 0)
		boot[strcspn(boot, "\n")] = '\0';
	if (fd >= 0)
		close(fd);
	if ((files = open_dir(dir, ids)) < 0 || !(d = fdopendir(dup(files))))
		return files;
	while ((f = readdir(d))) {
		if (f->d_name[0] == '~')
			unlinkat(files, f->d_name, 0); /* never finished */
		else if (f->d_name[0] != '.')
			load(f->d_name, ids);
	}
	closedir(d);
	return files;
}
