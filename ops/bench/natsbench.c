/* natsbench: fan-out yardstick against nats-server's text protocol.
 * natsbench PORT PUBS SUBS TOPICS MSGS SIZE [--dests] [--steps] -> JSON line. Counts delivered bytes (every MSG has the same length).
 * --dests: each of the TOPICS subjects has one subscriber, the publishers cycle through all of them.
 * --steps: prints {"step":NAME} at the edges of the measured part and waits for a byte on stdin there. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0); struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr); if (connect(fd, (void *)&a, sizeof a)) { perror("connect"); exit(1); }
    int one = 1; setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char b[65536]; (void)!read(fd, b, sizeof b); const char *c = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n"; (void)!write(fd, c, strlen(c));
    int n = read(fd, b, sizeof b); if (n < 4 || memcmp(b, "PONG", 4)) { fprintf(stderr, "no pong: %.*s\n", n, b); exit(1); } return fd;
}
static double cpu_s(void) {
    struct rusage ru; getrusage(RUSAGE_SELF, &ru);
    return ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}
static int steps;
static void step(const char *name) {
    if (!steps) return;
    char b; printf("{\"step\":\"%s\"}\n", name); fflush(stdout); if (read(0, &b, 1) < 0) exit(3);
}
int main(int ac, char **av) {
    if (ac < 7) return 1;
    int dests = 0; struct rlimit rl; getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl);
    for (int i = 7; i < ac; i++) { if (!strcmp(av[i], "--dests")) dests = 1; else if (!strcmp(av[i], "--steps")) steps = 1; else { fprintf(stderr, "unknown %s\n", av[i]); return 1; } }
    int port = atoi(av[1]), np = atoi(av[2]), ns = atoi(av[3]), nt = atoi(av[4]); long msgs = atol(av[5]); int size = atoi(av[6]);
    int *s = malloc(ns * 4), *p = malloc(np * 4), ep = epoll_create1(0); char b[512]; long per = msgs / np, expect = 0; static char tmp[262144];
    for (int i = 0; i < ns; i++) { s[i] = dial(port); int n;
        for (int d = i; dests && d < nt; d += ns) { n = sprintf(b, "SUB bench.%06d 1%06d\r\n", d, d); (void)!write(s[i], b, n); }
        n = dests ? sprintf(b, "PING\r\n") : sprintf(b, "SUB bench.%06d 1\r\nPING\r\n", i % nt); (void)!write(s[i], b, n); (void)!read(s[i], tmp, sizeof tmp);
        fcntl(s[i], F_SETFL, O_NONBLOCK); struct epoll_event e = {.events = EPOLLIN, .data.fd = s[i]}; epoll_ctl(ep, EPOLL_CTL_ADD, s[i], &e); }
    char *fb = malloc(1 << 20); long *sent = calloc(np, 8); size_t *off = calloc(np, sizeof *off); 
    char **bat = malloc(np * sizeof *bat); size_t *bl = malloc(np * sizeof *bl); int K = dests && nt > 500 ? nt : 500;
    for (int i = 0; i < np; i++) { p[i] = dial(port); fcntl(p[i], F_SETFL, O_NONBLOCK); bat[i] = malloc((size_t)K * (size + 64)); bl[i] = 0;
        for (int k = 0; k < K; k++) { bl[i] += sprintf(bat[i] + bl[i], "PUB bench.%06d %d\r\n", dests ? (k * np + i) % nt : i % nt, size); memset(bat[i] + bl[i], 'a', size); bl[i] += size; bat[i][bl[i]++] = '\r'; bat[i][bl[i]++] = '\n'; }
        int subs = 0; for (int j = 0; j < ns; j++) if (j % nt == i % nt) subs++; per = (per + K - 1) / K * K; expect += dests ? per : per * subs; }
    int ml = sprintf(b, "MSG bench.000000 1%s %d\r\n", dests ? "000000" : "", size) + size + 2; step("start"); double cpu0 = cpu_s(); uint64_t want = (uint64_t)expect * ml, got = 0, t0 = now(), last = t0;
    while (got < want && now() - t0 < 60e9 && now() - last < 5e9) {
        for (int i = 0; i < np; i++) while (sent[i] < per) { ssize_t n = send(p[i], bat[i] + off[i], bl[i] - off[i], MSG_NOSIGNAL); if (n <= 0) break; off[i] += n; if (off[i] == bl[i]) { off[i] = 0; sent[i] += K; } else break; }
        struct epoll_event ev[256]; int n = epoll_wait(ep, ev, 256, 1);
        for (int i = 0; i < n; i++) for (int k = 0; k < 4; k++) { ssize_t r = recv(ev[i].data.fd, tmp, sizeof tmp, 0); if (r <= 0) break; got += r; last = now(); if (r < (ssize_t)sizeof tmp) break; }
    }
    double el = (last - t0) / 1e9, cpu = cpu_s() - cpu0;
    printf("{\"mode\":\"nats\",\"pubs\":%d,\"subs\":%d,\"received\":%.0f,\"expected\":%ld,\"secs\":%.3f,\"recv_per_s\":%.0f,\"gen_cpu_s\":%.2f}\n", np, ns, (double)got / ml, expect, el, got / (double)ml / el, cpu); fflush(stdout); (void)fb; step("end"); return 0;
}
