/* See LICENSE file for copyright and license details. */
/*
 * path_open() and path_wwid() with a sysfs and a /dev that this file makes
 * up: the linker chooses its openat(), readlink(), access(), fstat() and
 * warn().
 */
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "check.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define WWID "naa.600140500000001"

static const char *wanted = WWID;
#define LINK "../../devices/pci0000:00/host1/target1:0:0/1:0:0:0/block/sdb"

/* Everything that sysfs and /dev say of the path 8:16. */
static struct {
	/* NULL: no such file */
	const char *state, *wwid, *link, *size, *device_busy;
	int no_sysfs;
	int err;     /* of opening the node */
	int vanish;  /* the disk goes away when its node is opened */
	mode_t mode; /* of the node */
	dev_t rdev;
} sys;

static char said[512];
static int warnings, flags, opened;
static int64_t clock_now = 1;

int64_t
now(void)
{
	return clock_now;
}

void
warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
	warnings++;
}

void
say(int level, const char *fmt, ...)
{
	(void)level;
	(void)fmt;
}

int
number(const char *s)
{
	return atoi(s);
}

/* A descriptor from which the text can be read. */
static int
text(const char *s)
{
	int end[2];

	if (!s) {
		errno = ENOENT;
		return -1;
	}
	if (pipe(end) < 0 || write(end[1], s, strlen(s)) < 0)
		abort();
	close(end[1]);
	return end[0];
}

ssize_t
readlink(const char *restrict path, char *restrict buf, size_t size)
{
	size_t n;

	errno = ENOENT;
	if (sys.no_sysfs || strcmp(path, "/sys/dev/block/8:16") || !sys.link)
		return -1;
	n = strlen(sys.link);
	memcpy(buf, sys.link, n < size ? n : size);
	return (ssize_t)(n < size ? n : size);
}

int
openat(int at, const char *path, int how, ...)
{
	static const char dir[] = "/sys/dev/block/8:16/";
	const char *name = path + strlen(dir);

	(void)at;
	if (strcmp(path, "/dev/sdb") == 0) {
		opened++;
		flags = how;
		if (sys.vanish)
			sys.state = NULL;
		errno = sys.err;
		return sys.err ? -1 : text("");
	}
	errno = ENOENT;
	if (sys.no_sysfs || strncmp(path, dir, strlen(dir)) != 0)
		return -1;
	if (strcmp(name, "device/state") == 0)
		return text(sys.state);
	if (strcmp(name, "device/wwid") == 0)
		return text(sys.wwid);
	if (strcmp(name, "device/device_busy") == 0)
		return text(sys.device_busy);
	return text(strcmp(name, "size") == 0 ? sys.size : NULL);
}

int
access(const char *path, int how)
{
	(void)how;
	errno = ENOENT;
	return !sys.no_sysfs && strcmp(path, "/sys/dev/block") == 0 ? 0 : -1;
}

int
fstat(int fd, struct stat *st)
{
	(void)fd;
	memset(st, 0, sizeof(*st));
	st->st_mode = sys.mode;
	st->st_rdev = sys.rdev;
	return 0;
}

static void
reset(void)
{
	memset(&sys, 0, sizeof(sys));
	sys.state = "running\n";
	sys.wwid = WWID "\n";
	sys.link = LINK;
	sys.mode = S_IFBLK;
	sys.rdev = makedev(8, 16);
	said[0] = '\0';
	warnings = opened = flags = 0;
	clock_now += WARN_TIME;
}

static int
try(uint8_t *how)
{
	int fd = path_open(makedev(8, 16), wanted, how);

	if (fd >= 0)
		close(fd);
	return fd;
}

/* Refused so, with this in the one warning (NULL: with none)? */
static void
refused(uint8_t want, const char *word, const char *name)
{
	uint8_t how = 0xee;

	check(try(&how) < 0 && how == want, name);
	if (!word) {
		check(warnings == 0, "without a warning");
		return;
	}
	check(warnings == 1 && strstr(said, "8:16") && strstr(said, word),
		"with a warning that names path and reason");
	try(&how);
	check(how == want && warnings == 1, "and only one");
	clock_now += WARN_TIME;
	try(&how);
	check(warnings == 2, "until much later");
}

static void
states(void)
{
	static const struct {
		const char *state;
		uint8_t want;
	} t[] = {
		{ "offline\n", SG_DEAD },
		{ "transport-offline\n", SG_DEAD },
		{ NULL, SG_DEAD },
		{ "blocked\n", SG_UNUSABLE },
		{ "created-blocked\n", SG_UNUSABLE },
		{ "quiesce\n", SG_UNUSABLE },
		{ "created\n", SG_UNUSABLE },
		{ "cancel\n", SG_UNUSABLE },
		{ "running away\n", SG_UNUSABLE },
	};
	char name[64];
	size_t i;

	for (i = 0; i < LEN(t); i++) {
		reset();
		sys.state = t[i].state;
		snprintf(name, sizeof(name), "state %s",
			t[i].state ? t[i].state : "of a disk that is gone");
		name[strcspn(name, "\n")] = '\0';
		refused(t[i].want, NULL, name);
		check(opened == 0, "its node is not opened");
	}
}

static void
names(void)
{
	char wwid[WWID_LEN], text_256[WWID_LEN + 2];

	reset();
	sys.wwid = "t10.LIO-ORG  disk  1   \n";
	check(path_wwid(makedev(8, 16), wwid) == 0 &&
		strcmp(wwid, "t10.LIO-ORG  disk  1") == 0,
		"spaces at the end are no part of a name");
	sys.wwid = "\n";
	check(path_wwid(makedev(8, 16), wwid) < 0, "an empty name is none");
	sys.wwid = NULL;
	check(path_wwid(makedev(8, 16), wwid) < 0, "no file is none");
	memset(text_256, 'x', sizeof(text_256));
	text_256[WWID_LEN] = '\0';
	sys.wwid = text_256;
	check(path_wwid(makedev(8, 16), wwid) < 0, "what is too long is none");
	text_256[WWID_LEN - 1] = '\0';
	check(path_wwid(makedev(8, 16), wwid) == 0 &&
		strlen(wwid) == WWID_LEN - 1, "the longest that fits");

	sys.size = "32768\n";
	check(path_size(makedev(8, 16)) == 32768, "a size");
	sys.size = "-1\n";
	check(path_size(makedev(8, 16)) == 0, "a size that is none");
	sys.size = NULL;
	check(path_size(makedev(8, 16)) == 0, "no size");
}

static void
busy(void)
{
	const dev_t dev = makedev(8, 16);

	reset();
	check(path_busy(dev) == 0, "no device_busy: not busy");
	sys.device_busy = "0\n";
	check(path_busy(dev) == 0, "nothing under way");
	sys.device_busy = "12\n";
	check(path_busy(dev) > 0, "commands under way");
}

static void
opens(void)
{
	static char far[2000];
	uint8_t how = 0xee;

	reset();
	check(try(&how) >= 0 && how != SG_DEAD && warnings == 0,
		"a good path is opened");
	check(flags == (O_RDONLY | O_NONBLOCK | O_CLOEXEC),
		"read-only, and does not wait");
	sys.err = ENXIO;
	refused(SG_DEAD, NULL, "ENXIO");
	sys.err = ENODEV;
	refused(SG_DEAD, NULL, "ENODEV");
	sys.err = EIO;
	refused(SG_UNUSABLE, NULL, "EIO");
	reset();
	sys.err = EPERM;
	refused(SG_UNUSABLE, "/dev/sdb", "EPERM");
	reset();
	sys.err = EACCES;
	refused(SG_UNUSABLE, "cgroup", "EACCES");
	reset();
	sys.err = ENOENT;
	refused(SG_UNUSABLE, "/dev/sdb", "no node, but a disk");
	reset();
	sys.err = ENOENT;
	sys.vanish = 1;
	refused(SG_DEAD, NULL, "no node, no disk any more");
	reset();
	sys.rdev = makedev(8, 32);
	refused(SG_UNUSABLE, "/dev/sdb", "a node of another disk");
	reset();
	sys.mode = S_IFCHR;
	refused(SG_UNUSABLE, "/dev/sdb", "a node that is no disk");
	reset();
	sys.wwid = "naa.2\n";
	refused(SG_UNUSABLE, "naa.2", "another unit");
	check(strstr(said, WWID) != NULL, "the other name is said, too");
	reset();
	sys.wwid = NULL;
	refused(SG_UNUSABLE, WWID, "a unit without a name");
	wanted = "";
	check(try(&how) >= 0, "... which does for who wants none");
	wanted = WWID;
	reset();
	sys.link = NULL;
	refused(SG_UNUSABLE, NULL, "a disk without a link");
	reset();
	memset(far, 'x', sizeof(far) - 1);
	sys.link = far;
	refused(SG_UNUSABLE, NULL, "a link to nowhere");
	far[3] = '/';
	refused(SG_UNUSABLE, NULL, "a link that is too long");
	sys.link = far + sizeof(far) - 100;
	far[sizeof(far) - 50] = '/';
	refused(SG_UNUSABLE, NULL, "a name that is too long");
}

static void
without_sysfs(void)
{
	uint8_t how = 0xee;

	reset();
	sys.no_sysfs = 1;
	check(try(&how) < 0 && how == SG_UNUSABLE && warnings == 1 &&
		strstr(said, "/sys"), "without /sys: said");
	clock_now += WARN_TIME;
	check(try(&how) < 0 && how == SG_UNUSABLE && warnings == 1, "once");
}

int
main(void)
{
	states();
	names();
	busy();
	opens();
	without_sysfs();
	printf("1..%d\n", tests);
	return failed != 0;
}
