/* See LICENSE file for copyright and license details. */
/*
 * The only user of libdevmapper. Nothing of it is called before the kernel
 * is known to have device-mapper: the library would create its control node
 * and complain on stderr.
 */
#include <sys/types.h>

#include <libdevmapper.h>
#include <stdint.h>
#include <unistd.h>

#include "prhelper.h"

#define CONTROL "/dev/mapper/control"

static void
dm_log(int level, const char *file, int line, int err, const char *fmt, ...)
{
	(void)level;
	(void)file;
	(void)line;
	(void)err;
	(void)fmt;
}

int
dm_init(void)
{
	char version[32];

	if (access(CONTROL, F_OK) < 0)
		return 0;
	dm_log_with_errno_init(dm_log);
	dm_hold_control_dev(1);
	if (!dm_driver_version(version, sizeof(version))) {
		/* Else each later task would fail for this first one. */
		dm_lib_exit();
		return 0;
	}
	say(LOG_VERBOSE, "device-mapper %s", version);
	return 1;
}
