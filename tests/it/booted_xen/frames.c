/* What a guest and the host of the Xen test do with frames.
 *
 * frames send DEV MAC...     broadcasts an ARP request under each of these addresses, again and again
 * frames hear SECONDS DEV... prints "DEV MAC" for each source of ARP that the devices are given to
 *                            deliver, or, where a name begins with "up", that they have received */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int bound(const char *dev)
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = if_nametoindex(dev),
	};
	/* Without a protocol it hears nothing yet. With one it would hear every device until it is bound. */
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	if (fd < 0 || !to.sll_ifindex || bind(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		perror(dev);
		exit(1);
	}
	return fd;
}

static void send_all(const char *dev, char **macs)
{
	unsigned char frame[60] = {
		[12] = 8, [13] = 6, [15] = 1, [16] = 8, [18] = 6, [19] = 4, [21] = 1,
	};
	int fd = bound(dev);

	memset(frame, 0xff, 6);
	for (;;) {
		for (char **mac = macs; *mac; mac++) {
			unsigned char *s = frame + 6;

			sscanf(*mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", s, s + 1, s + 2, s + 3, s + 4, s + 5);
			memcpy(frame + 22, s, 6);
			send(fd, frame, sizeof(frame), 0); /* It may be down, or gone. */
		}
		usleep(200000);
	}
}

static void hear(int seconds, char **devs, int count)
{
	struct pollfd fds[count];
	time_t end = time(NULL) + seconds;

	setlinebuf(stdout);
	for (int i = 0; i < count; i++)
		fds[i] = (struct pollfd){ .fd = bound(devs[i]), .events = POLLIN };
	while (time(NULL) < end) {
		poll(fds, count, 200);
		for (int i = 0; i < count; i++) {
			unsigned char frame[2048];
			struct sockaddr_ll from;
			socklen_t len = sizeof(from);

			if (!(fds[i].revents & POLLIN) ||
			    recvfrom(fds[i].fd, frame, sizeof(frame), 0, (struct sockaddr *)&from, &len) < 42 ||
			    frame[12] != 8 || frame[13] != 6 ||
			    (from.sll_pkttype == PACKET_OUTGOING) != !!strncmp(devs[i], "up", 2))
				continue;
			printf("%s %02x:%02x:%02x:%02x:%02x:%02x\n", devs[i], frame[6], frame[7],
			       frame[8], frame[9], frame[10], frame[11]);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "send"))
		send_all(argv[2], argv + 3);
	else if (argc > 3 && !strcmp(argv[1], "hear"))
		hear(atoi(argv[2]), argv + 3, argc - 3);
	else
		return 2;
	return 0;
}
