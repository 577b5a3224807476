/* aio FILE: asks for the file by io_submit(2) again and again, 256 reads at once, until its parent ends.
 * Prints a line when they have asked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <signal.h>
#include <unistd.h>

#define PROCESSES 4
#define EACH 64

static char room[EACH][4096];

static int ask(const char *file)
{
	aio_context_t context = 0;
	struct iocb all[EACH], *list[EACH];
	struct io_event done[EACH];
	int fd = open(file, O_RDONLY);

	if (fd < 0 || syscall(SYS_io_setup, EACH, &context) != 0) {
		perror(file);
		return 1;
	}
	for (;;) {
		for (int i = 0; i < EACH; i++) {
			memset(&all[i], 0, sizeof all[i]);
			all[i].aio_lio_opcode = IOCB_CMD_PREAD;
			all[i].aio_fildes = fd;
			all[i].aio_buf = (uintptr_t)room[i];
			all[i].aio_nbytes = sizeof room[i];
			list[i] = &all[i];
		}
		long asked = syscall(SYS_io_submit, context, EACH, list);
		if (asked <= 0) {
			perror("io_submit");
			return 1;
		}
		syscall(SYS_io_getevents, context, asked, asked, done, NULL);
	}
}

int main(int count, char **words)
{
	if (count != 2)
		return 2;
	for (int i = 0; i < PROCESSES; i++) {
		pid_t other = fork();
		if (other < 0)
			return 1;
		if (other == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			return ask(words[1]);
		}
	}
	/* None of them can tell: where the kernel makes them wait, they wait in their first call. */
	usleep(300 * 1000);
	puts("asked");
	fflush(stdout);
	pause();
	return 0;
}
