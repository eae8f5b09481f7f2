/* stompbench: a load generator for any STOMP broker.
 *
 * One epoll thread. Publishers write pre-built batches as fast as TCP lets them (or at --rate),
 * consumers parse every MESSAGE frame (content-length aware), optionally ACK it.
 *   gcc -O2 -o stompbench stompbench.c
 *   stompbench fanout  --pubs 1 --subs 10 --msgs 100000 --size 100
 *   stompbench queue   --pubs 2 --subs 2 --msgs 50000 --ack client-individual --persistent --receipts 256
 *   stompbench latency --pubs 1 --subs 10 --rate 1000 --secs 5
 *   stompbench conns   --conns 5000
 *   stompbench fanout  --pubs 1 --subs 20 --dests 100000   (every destination has one subscriber, publishers cycle through all)
 *   stompbench drain   --subs 2 --msgs 50000 --ack client-individual --dest /queue/x.   (takes what others enqueued, until the broker confirms its end)
 *   stompbench receipt --msgs 1000 --persistent --dest /queue/x.   (one producer, one receipt at a time: time from SEND to RECEIPT)
 * prints one JSON line. With --steps it stops at the edges of the measured part: it prints {"step":NAME} and waits for
 * a byte on stdin, so that whoever drives it can sample the broker exactly there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
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

static const char *host = "127.0.0.1", *login = NULL, *passcode = NULL, *vhost = "/", *ackmode = "auto", *dprefix = NULL;
static int port = 61613, npub = 1, nsub = 1, ntopic = 1, size = 100, persistent = 0, receipts = 0, secs = 5, nconn = 1000, extra_prefetch = 0, settle_ms = 300, norcpt = 0, uniq = 0, dests = 0, steps = 0, drain = 0;
static long msgs = 100000; static double rate = 0; static double maxwall = 60, waitwall = 30;

typedef struct { char *p; size_t len, cap, off; } buf;
static void bput(buf *b, const void *d, size_t n) {
    if (b->off && b->off == b->len) b->off = b->len = 0;
    if (b->len + n > b->cap) { b->cap = (b->len + n) * 2; b->p = realloc(b->p, b->cap); }
    memcpy(b->p + b->len, d, n); b->len += n;
}
enum { CONNECTING, CONNECTED, SUBSCRIBED, DONE };
typedef struct { int fd, id, pub, state; buf in, out; long sent, acked, got; uint32_t ev; } conn;
static int ep;
static conn *cs; static int nc;
static long received, errors_, receipts_got, closed_; static uint64_t bytes_in;
static uint32_t *lat; static long nlat, caplat;

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void step(const char *name) {
    if (!steps) return;
    char b; printf("{\"step\":\"%s\"}\n", name); fflush(stdout); if (read(0, &b, 1) < 0) exit(3);
}
static double cpu_s(void) {
    struct rusage ru; getrusage(RUSAGE_SELF, &ru);
    return ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}
static void arm(conn *c) {
    uint32_t ev = EPOLLIN | ((c->out.len > c->out.off) ? EPOLLOUT : 0);
    if (ev == c->ev) return;
    struct epoll_event e = {.events = ev, .data.ptr = c}; c->ev = ev; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void flush_(conn *c) {
    while (c->out.len > c->out.off) {
        ssize_t n = send(c->fd, c->out.p + c->out.off, c->out.len - c->out.off, MSG_NOSIGNAL);
        if (n < 0) { if (errno == EAGAIN) break; c->state = DONE; closed_++; return; }
        c->out.off += n;
    }
    arm(c);
}
static void puts_(conn *c, const char *s, size_t n) { bput(&c->out, s, n); }
static void open_(conn *c, int id, int pub) {
    memset(c, 0, sizeof *c); c->id = id; c->pub = pub;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)}; inet_pton(AF_INET, host, &a.sin_addr);
    for (int t = 0; connect(c->fd, (void *)&a, sizeof a); t++) { if (t > 200) { perror("connect"); exit(1); } usleep(10000); }
    int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; c->ev = EPOLLIN; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    char b[512]; int n = snprintf(b, sizeof b, "CONNECT\naccept-version:1.2\nhost:%s\n", vhost);
    if (login) n += snprintf(b + n, sizeof b - n, "login:%s\npasscode:%s\n", login, passcode);
    n += snprintf(b + n, sizeof b - n, "heart-beat:0,0\n\n"); puts_(c, b, n + 1); flush_(c);
}
static void subscribe(conn *c) {
    if (dests) { /* only the last SUBSCRIBE asks for a receipt: a broker handles the frames of a connection in order */
        for (int d = c->id; d < dests; d += nsub) {
            char b[512]; int n = snprintf(b, sizeof b, "SUBSCRIBE\nid:%d\ndestination:%s%d\nack:auto\n%s\n", d, dprefix, d, d + nsub >= dests ? "receipt:s\n" : "");
            puts_(c, b, n + 1);
        }
        if (c->id >= dests) c->state = SUBSCRIBED;
        flush_(c); return;
    }
    char b[512]; int n = snprintf(b, sizeof b, "SUBSCRIBE\nid:0\ndestination:%s%d\nack:%s\n%s", dprefix, c->id % ntopic, ackmode, norcpt ? "" : "receipt:s\n");
    if (extra_prefetch) n += snprintf(b + n, sizeof b - n, "prefetch-count:%d\nactivemq.prefetchSize:%d\n", extra_prefetch, extra_prefetch);
    n += snprintf(b + n, sizeof b - n, "\n"); puts_(c, b, n + 1); if (norcpt) c->state = SUBSCRIBED; flush_(c);
}
static char *body;
static int build(char *b, int topic, const char *rcpt, uint64_t ts) {
    int n = sprintf(b, "SEND\ndestination:%s%d\n%scontent-length:%d\n", dprefix, topic, persistent ? "persistent:true\n" : "", size);
    if (rcpt) n += sprintf(b + n, "receipt:%s\n", rcpt);
    if (uniq) { static long u; n += sprintf(b + n, "correlation-id:c-%ld\ncontent-type:application/json\nreply-to:/temp-queue/r\n", u++); }
    b[n++] = '\n'; memcpy(b + n, body, size);
    if (ts) { char t[32]; int k = sprintf(t, "T%020llu", (unsigned long long)ts); memcpy(b + n, t, k); }
    n += size; b[n++] = 0; return n;
}
static int in_frames(conn *c) {
    char *p = c->in.p + c->in.off, *e = c->in.p + c->in.len;
    for (;;) {
        while (p < e && (*p == '\n' || *p == '\r')) p++;
        if (p >= e) break;
        char *h = memmem(p, e - p, "\n\n", 2); int skip = 2;
        if (!h) break;
        char *bod = h + skip, *end = NULL, *cl = memmem(p, h - p + 1, "\ncontent-length:", 16);
        if (cl) { long L = atol(cl + 16); if (bod + L + 1 > e) break; end = bod + L; }
        else { end = memchr(bod, 0, e - bod); if (!end) break; }
        if (*p == 'M') {
            received++; c->got++; if (drain && received > msgs) { p = end + 1; continue; } /* its prefetch goes back to the queue */
            if (bod[0] == 'T' && rate > 0) { uint64_t t = strtoull(bod + 1, NULL, 10); if (nlat < caplat) lat[nlat++] = (now() - t) / 1000; }
            if (ackmode[0] == 'c' && (ackmode[6] == '-' || c->got % 64 == 0)) {
                char *ak = memmem(p, h - p + 1, "\nack:", 5);
                if (ak) { char *el = memchr(ak + 5, '\n', h + 1 - ak - 5); char b[600]; int n = snprintf(b, sizeof b, "ACK\nid:%.*s\n\n", (int)(el - ak - 5), ak + 5); puts_(c, b, n + 1); }
            }
        } else if (!strncmp(p, "CONNECTED", 9)) { c->state = CONNECTED; }
        else if (!strncmp(p, "RECEIPT", 7)) { receipts_got++; if (c->pub) c->acked += receipts ? receipts : 1; else { c->acked++; c->state = SUBSCRIBED; } }
        else if (!strncmp(p, "ERROR", 5)) { if (errors_++ < 3) fprintf(stderr, "ERROR frame: %.*s\n", (int)(end - p), p); }
        p = end + 1;
    }
    c->in.off = p - c->in.p;
    if (c->in.off == c->in.len) { c->in.off = c->in.len = 0; if (nc > 500 && c->in.cap > 16384) { free(c->in.p); c->in.p = NULL; c->in.cap = 0; } }
    else if (c->in.off > 1 << 20) { memmove(c->in.p, c->in.p + c->in.off, c->in.len - c->in.off); c->in.len -= c->in.off; c->in.off = 0; }
    return 0;
}
static void on_in(conn *c) {
    static char tmp[262144];
    for (int k = 0; k < 4; k++) {
        ssize_t n = recv(c->fd, tmp, sizeof tmp, 0);
        if (n == 0) { if (c->state != DONE) closed_++; c->state = DONE; epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL); return; }
        if (n < 0) { if (errno != EAGAIN) { if (c->state != DONE) closed_++; c->state = DONE; epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL); } break; }
        bytes_in += n; bput(&c->in, tmp, n); if (nc > 500) in_frames(c);
        if (n < (ssize_t)sizeof tmp) break;
    }
    in_frames(c);
    if (c->out.len > c->out.off) flush_(c);
}
static void pump(int ms) {
    struct epoll_event ev[512]; int n = epoll_wait(ep, ev, 512, ms);
    for (int i = 0; i < n; i++) {
        conn *c = ev[i].data.ptr;
        if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_in(c);
        if (c->state != DONE && (ev[i].events & EPOLLOUT)) flush_(c);
    }
}
static int cmp(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return x < y ? -1 : x > y; }
static void wait_state(int st, int from, int to, const char *what) {
    uint64_t t0 = now();
    for (;;) { int ok = 1; for (int i = from; i < to; i++) if (cs[i].state < st) { ok = 0; break; }
        if (ok) return; pump(20); if (now() - t0 > waitwall * 1e9) { fprintf(stderr, "timeout waiting for %s\n", what); exit(2); } }
}
int main(int ac, char **av) {
    if (ac < 2) return 1; const char *mode = av[1];
    struct rlimit rl = {65535, 65535}; if (setrlimit(RLIMIT_NOFILE, &rl)) { getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl); }
    for (int i = 2; i < ac; i++) {
#define S(f, v) if (!strcmp(av[i], f)) { v = av[++i]; continue; }
#define I(f, v) if (!strcmp(av[i], f)) { v = atol(av[++i]); continue; }
        S("--host", host) S("--login", login) S("--passcode", passcode) S("--vhost", vhost) S("--ack", ackmode) S("--dest", dprefix)
        I("--port", port) I("--pubs", npub) I("--subs", nsub) I("--topics", ntopic) I("--size", size) I("--msgs", msgs) I("--receipts", receipts)
        I("--secs", secs) I("--conns", nconn) I("--prefetch", extra_prefetch) I("--settle", settle_ms) I("--dests", dests)
        if (!strcmp(av[i], "--uniq")) { uniq = 1; continue; }
        if (!strcmp(av[i], "--noreceipt")) { norcpt = 1; settle_ms = 1500; continue; }
        if (!strcmp(av[i], "--persistent")) { persistent = 1; continue; }
        if (!strcmp(av[i], "--rate")) { rate = atof(av[++i]); continue; }
        if (!strcmp(av[i], "--steps")) { steps = 1; continue; }
        if (!strcmp(av[i], "--wait")) { waitwall = atof(av[++i]); continue; }
        if (!strcmp(av[i], "--max")) { maxwall = atof(av[++i]); continue; }
        fprintf(stderr, "unknown %s\n", av[i]); return 1;
    }
    int single = !strcmp(mode, "receipt"), latency = !strcmp(mode, "latency"), conns = !strcmp(mode, "conns");
    drain = !strcmp(mode, "drain"); int queue = drain || single || !strcmp(mode, "queue");
    if (drain) npub = 0;
    if (single) npub = 1, nsub = 0;
    if (!dprefix) { static char d[64]; sprintf(d, queue ? "/queue/b%d." : "/topic/b%d.", (int)getpid()); dprefix = d; }
    if (latency && rate <= 0) rate = 1000; if (!latency) rate = 0;
    if (latency && size < 24) size = 24;
    body = malloc(size + 1); for (int i = 0; i < size; i++) body[i] = 'a' + i % 26;
    ep = epoll_create1(0); nc = conns ? nconn : npub + nsub; cs = calloc(nc, sizeof *cs);
    uint64_t t0 = now();
    for (int i = 0; i < nc; i++) { open_(&cs[i], i < nsub && !conns ? i : i - nsub, !conns && i >= nsub); if (i % 64 == 63) pump(0); }
    wait_state(CONNECTED, 0, nc, "CONNECTED");
    double tconn = (now() - t0) / 1e9;
    if (conns) {
        t0 = now(); for (int i = 0; i < nc; i++) { subscribe(&cs[i]); if (i % 64 == 63) pump(0); }
        wait_state(SUBSCRIBED, 0, nc, "SUBSCRIBED");
        printf("{\"mode\":\"conns\",\"conns\":%d,\"connect_s\":%.3f,\"connect_per_s\":%.0f,\"subscribe_s\":%.3f}\n", nc, tconn, nc / tconn, (now() - t0) / 1e9);
        fflush(stdout); step("held"); if (secs) { t0 = now(); while (now() - t0 < secs * 1e9) pump(50); }
        return 0;
    }
    if (nsub && !drain) { for (int i = 0; i < nsub; i++) subscribe(&cs[i]); wait_state(SUBSCRIBED, 0, nsub, "SUBSCRIBE receipts"); }
    { uint64_t s = now(); while (now() - s < settle_ms * 1000000ull) pump(10); }
    received = 0; receipts_got = 0;
    long per = npub ? msgs / npub : 0, total = per * npub, expect = 0;
    if (latency) { per = rate * secs / npub; total = per * npub; }
    for (int i = 0; i < npub; i++) { int t = i % ntopic; int subs = 0; for (int j = 0; j < nsub; j++) if (j % ntopic == t) subs++; expect += queue ? (subs ? per : 0) : per * subs; }
    if (dests) expect = total;
    if (drain) expect = msgs;
    caplat = latency ? expect + 1 : single ? total : 0; lat = caplat ? malloc(caplat * 4) : NULL;
    char *fb = malloc(size + 1024); step("start"); double cpu0 = cpu_s(); t0 = now(); uint64_t last = t0, lastgot = 0, tsent = 0; long sent = 0;
    /* Subscribing belongs to draining: what it subscribes to arrives at once. */
    if (drain) { for (int i = 0; i < nsub; i++) subscribe(&cs[i]); wait_state(SUBSCRIBED, 0, nsub, "SUBSCRIBE receipts"); receipts_got = 0; last = now(); }
    double stall = drain || !nsub ? waitwall * 1e9 : 5e9;
    while (single && sent < total && cs[0].state != DONE && now() - t0 < maxwall * 1e9) {
        char r[32]; sprintf(r, "r%ld", sent); int n = build(fb, 0, r, 0);
        uint64_t t = now(); puts_(&cs[0], fb, n); flush_(&cs[0]); sent++;
        while (receipts_got < sent && cs[0].state != DONE && now() - t0 < maxwall * 1e9) pump(100);
        last = now(); if (receipts_got == sent) lat[nlat++] = (last - t) / 1000;
    }
    while (!single) {
        uint64_t t = now(); sent = 0;
        for (int i = nsub; i < nc; i++) {
            conn *c = &cs[i]; if (c->state == DONE) { sent += c->sent; continue; }
            long want = per; if (latency) { want = (t - t0) / 1e9 * rate / npub; if (want > per) want = per; }
            while (c->sent < want && c->out.len - c->out.off < 131072) {
                char r[32]; const char *rc = NULL;
                if (receipts) { if (c->sent - c->acked >= 16L * receipts) break; if ((c->sent + 1) % receipts == 0) { sprintf(r, "r%ld", c->sent); rc = r; } }
                int n = build(fb, dests ? (int)((c->sent * npub + c->id) % dests) : c->id % ntopic, rc, latency ? now() : 0); puts_(c, fb, n); c->sent++;
            }
            if (c->out.len > c->out.off) flush_(c);
            sent += c->sent;
        }
        if (sent >= total && !tsent) tsent = now();
        pump(latency ? 1 : (sent < total ? 1 : 20));
        if ((uint64_t)received != lastgot) { lastgot = received; last = now(); }
        if (received >= expect && sent >= total && (nsub || !receipts || receipts_got >= total / receipts)) { if (!nsub) last = now(); break; }
        if (now() - t0 > maxwall * 1e9) break;
        if (sent >= total && now() - last > stall && now() - tsent > stall) break;
    }
    if (drain) { /* a broker handles the frames of a connection in order: this receipt comes when the ACKs are done */
        for (int i = 0; i < nsub; i++) if (cs[i].state != DONE) { puts_(&cs[i], "DISCONNECT\nreceipt:bye\n\n", 25); flush_(&cs[i]); }
        for (uint64_t s = now(); now() - s < waitwall * 1e9; pump(20)) {
            int left = 0; for (int i = 0; i < nsub; i++) left += cs[i].state != DONE && cs[i].acked < 2;
            if (!left) break;
        }
        last = now();
    }
    double el = (last - t0) / 1e9, cpu = cpu_s() - cpu0;
    printf("{\"mode\":\"%s\",\"pubs\":%d,\"subs\":%d,\"topics\":%d,\"size\":%d,\"sent\":%ld,\"received\":%ld,\"expected\":%ld,\"secs\":%.3f,\"sent_per_s\":%.0f,\"recv_per_s\":%.0f,\"receipts\":%ld,\"errors\":%ld,\"closed\":%ld,\"gen_cpu_s\":%.2f",
           mode, npub, nsub, ntopic, size, sent, received, expect, el, sent / (tsent > t0 ? (tsent - t0) / 1e9 : el), received / el, receipts_got, errors_, closed_, cpu);
    if (nlat) { qsort(lat, nlat, 4, cmp); printf(",\"p50_us\":%u,\"p90_us\":%u,\"p99_us\":%u,\"p999_us\":%u,\"max_us\":%u", lat[nlat / 2], lat[nlat * 9 / 10], lat[nlat * 99 / 100], lat[nlat * 999 / 1000], lat[nlat - 1]); }
    printf("}\n"); fflush(stdout); step("end"); return 0;
}
