/* What a network reaches. Linked statically, so that it runs in any image.
 *
 *   to HOW ADDRESS PORT      whether somebody answers there: status 0. HOW is
 *                              plain       by TCP
 *                              device      by TCP, with SO_BINDTODEVICE
 *                              unicast_if  by TCP, with IP_UNICAST_IF
 *                              pktinfo     by UDP, with the interface of IP_PKTINFO
 *   serve ADDRESS PORT …     answers there, by TCP and UDP, until it is killed
 *   names ADDRESS ANSWER     is a server of names there: every name has the IPv4 address ANSWER
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Milliseconds in which an answer is there, if there is one: PATIENCE of the environment, if it is set. */
static int patience = 3000;

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static socklen_t address(const char *text, int port, union address *to)
{
	memset(to, 0, sizeof *to);
	if (inet_pton(AF_INET, text, &to->four.sin_addr) == 1) {
		to->four.sin_family = AF_INET;
		to->four.sin_port = htons(port);
		return sizeof to->four;
	}
	if (inet_pton(AF_INET6, text, &to->six.sin6_addr) != 1)
		fail(text);
	to->six.sin6_family = AF_INET6;
	to->six.sin6_port = htons(port);
	return sizeof to->six;
}

/* The interface that leads out. */
static unsigned outside(char *name)
{
	struct if_nameindex *all = if_nameindex();
	for (struct if_nameindex *one = all; one && one->if_index; one++)
		if (strcmp(one->if_name, "lo")) {
			strcpy(name, one->if_name);
			return one->if_index;
		}
	fail("no interface");
	return 0;
}

static int ready(int fd, short what)
{
	struct pollfd one = { .fd = fd, .events = what };
	return poll(&one, 1, patience) == 1;
}

static int to(const char *how, const char *where, int port)
{
	union address there;
	char said[16], name[IF_NAMESIZE];
	socklen_t size = address(where, port, &there);
	int udp = !strcmp(how, "pktinfo");
	int fd = socket(there.any.sa_family, udp ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0)
		fail("socket");
	if (!strcmp(how, "device")) {
		outside(name);
		if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, strlen(name) + 1))
			fail("SO_BINDTODEVICE");
	} else if (!strcmp(how, "unicast_if")) {
		unsigned index = htonl(outside(name));
		if (setsockopt(fd, IPPROTO_IP, IP_UNICAST_IF, &index, sizeof index))
			fail("IP_UNICAST_IF");
	}
	if (udp) {
		union {
			struct cmsghdr head;
			char all[CMSG_SPACE(sizeof(struct in_pktinfo))];
		} more = { .head = { .cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)),
			.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO } };
		struct in_pktinfo info = { .ipi_ifindex = outside(name) };
		memcpy(CMSG_DATA(&more.head), &info, sizeof info);
		struct iovec bytes = { "x", 1 };
		struct msghdr message = { .msg_name = &there, .msg_namelen = size, .msg_iov = &bytes, .msg_iovlen = 1,
			.msg_control = &more, .msg_controllen = sizeof more };
		if (sendmsg(fd, &message, 0) != 1)
			fail("sendmsg");
	} else {
		int error = 0;
		socklen_t length = sizeof error;
		if (connect(fd, &there.any, size) && errno != EINPROGRESS)
			fail("connect");
		if (!ready(fd, POLLOUT))
			return 1;
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
		if ((errno = error))
			fail("connect");
	}
	return !ready(fd, POLLIN) || recv(fd, said, sizeof said, 0) <= 0;
}

static int bound(const char *where, int port, int kind)
{
	union address here;
	int on = 1;
	socklen_t size = address(where, port, &here);
	int fd = socket(here.any.sa_family, kind, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, &here.any, size) || (kind == SOCK_STREAM && listen(fd, 8)))
		fail(where);
	return fd;
}

static void serve(int count, char **words)
{
	struct pollfd fds[64];
	int all = 0;
	for (int i = 0; i + 1 < count && all + 2 <= 64; i += 2) {
		fds[all++] = (struct pollfd){ .fd = bound(words[i], atoi(words[i + 1]), SOCK_STREAM), .events = POLLIN };
		fds[all++] = (struct pollfd){ .fd = bound(words[i], atoi(words[i + 1]), SOCK_DGRAM), .events = POLLIN };
	}
	for (;;) {
		poll(fds, all, -1);
		for (int i = 0; i < all; i++) {
			char byte[16];
			union address from;
			socklen_t size = sizeof from;
			if (!fds[i].revents)
				continue;
			if (i % 2) {
				if (recvfrom(fds[i].fd, byte, sizeof byte, 0, &from.any, &size) > 0)
					sendto(fds[i].fd, "here\n", 5, 0, &from.any, size);
			} else {
				int fd = accept(fds[i].fd, NULL, NULL);
				if (fd >= 0 && write(fd, "here\n", 5) == 5)
					close(fd);
			}
		}
	}
}

/* To a question for an address the answer, to all others none. */
static void names(const char *where, const char *answer)
{
	int fd = bound(where, 53, SOCK_DGRAM);
	unsigned char packet[600];
	for (;;) {
		union address from;
		socklen_t size = sizeof from;
		ssize_t length = recvfrom(fd, packet, 512, 0, &from.any, &size);
		ssize_t end = 12;
		while (end < length && packet[end])
			end += packet[end] + 1;
		end += 5;
		if (end > length)
			continue;
		int is_a = packet[end - 4] == 0 && packet[end - 3] == 1;
		unsigned char head[] = { 0x81, 0x80, 0, 1, 0, is_a, 0, 0, 0, 0 };
		memcpy(packet + 2, head, sizeof head);
		if (is_a) {
			unsigned char found[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4 };
			memcpy(packet + end, found, sizeof found);
			inet_pton(AF_INET, answer, packet + end + sizeof found);
			end += sizeof found + 4;
		}
		sendto(fd, packet, end, 0, &from.any, size);
	}
}

int main(int count, char **words)
{
	const char *given = getenv("PATIENCE");
	if (given)
		patience = atoi(given);
	if (count == 5 && !strcmp(words[1], "to"))
		return to(words[2], words[3], atoi(words[4]));
	if (count > 3 && !strcmp(words[1], "serve"))
		serve(count - 2, words + 2);
	else if (count == 4 && !strcmp(words[1], "names"))
		names(words[2], words[3]);
	fprintf(stderr, "usage: reach to|serve|names; see its source\n");
	return 2;
}
