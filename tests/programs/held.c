/* A disk whose syncs can be held: preloaded into a program, it lets each fsync and fdatasync wait for as
 * long as the file $HELD is there. Each that waits has written a byte into the file $HELD.waits before. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_while_held(void)
{
	const char *held = getenv("HELD");
	struct timespec pause = { 0, 5 * 1000 * 1000 };
	struct stat there;
	char waits[PATH_MAX];

	if (!held || stat(held, &there) != 0)
		return;
	snprintf(waits, sizeof waits, "%s.waits", held);
	int told = open(waits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (told >= 0) {
		if (write(told, ".", 1) != 1)
			perror(waits);
		close(told);
	}
	while (stat(held, &there) == 0)
		nanosleep(&pause, NULL);
}

int fsync(int fd)
{
	wait_while_held();
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	wait_while_held();
	return (int)syscall(SYS_fdatasync, fd);
}
