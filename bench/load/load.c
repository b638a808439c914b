// The load generator of the comparison: one thread, one epoll, loopback only. It prints one JSON
// object. The modes:
//   echo   each connection keeps --depth messages in flight, or with --pace-us sends one at a time
//   http   the same with requests of HTTP/1.1; the first reply tells how long all replies are
//   udp    the same with datagrams; what has no reply after 200 ms counts as dropped
//   churn  each of --conns slots connects, makes one round trip, closes, and begins again
//   burst  --conns clients connect at once, and each repeats its round trip until all have made one
// ../README.md explains the options.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hist.h"
#include "usage.h"

typedef uint64_t u64;
typedef int64_t i64;

enum { BUFFER = 1 << 18, RING = 4096, EVENTS = 256 };
static const u64 MILLISECOND = 1000000, SECOND = 1000000000;

enum mode { ECHO, HTTP, UDP, CHURN, BURST };
static const char *const MODES[] = {"echo", "http", "udp", "churn", "burst"};

static struct {
  const char *addr, *mode_name;
  enum mode mode;
  int conns, size, depth, idle, settle_ms, sources, pace_us, pid, cpu;
  const char *special;  // what special connections ask for: s computes, b blocks
  int specials, special_gap_ms, hot, hot_depth, hot_size;
  double secs, warmup;
  u64 trips;
} opt = {
    .mode_name = "echo", .conns = 50, .size = 64, .depth = 1, .cpu = -1, .special = "s",
    .special_gap_ms = 300, .hot_depth = 256, .hot_size = 64, .secs = 3, .warmup = 0.5,
};

enum kind { NORMAL, HOT, SPECIAL };
typedef struct {
  int fd, depth, watches_out, connecting, done;
  enum kind kind;
  int size, reply;      // bytes of a message and of its reply
  u64 to_send;          // bytes that are queued and not written yet
  u64 at;               // where in a message the next byte to write is
  u64 got;              // bytes of the current reply
  uint32_t head, tail;  // of the ring of times at which messages were sent, or due
  u64 *ring;
  u64 born;
} conn;

static int epoll, reply_size;
static char *payload, *special_payload, *buffer;
static struct sockaddr_in server;
static histogram *latency;  // of normal messages
static histogram *beside;   // of those that waited while special ones did
static u64 trips, hot_trips, errors, dropped, special_done, special_sum, special_max;
static u64 specials_end;    // when the last reply of a batch of special messages came
static int recording, specials_out;
static i64 outstanding;     // normal messages without a reply

static void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static u64 now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (u64)t.tv_sec * SECOND + (u64)t.tv_nsec;
}

static void set_option(int fd, int level, int name) {
  int one = 1;
  setsockopt(fd, level, name, &one, sizeof one);
}

// Makes the `index`-th socket, on the source address that is its turn.
static int new_socket(int flags, unsigned index) {
  int type = opt.mode == UDP ? SOCK_DGRAM : SOCK_STREAM;
  int fd = socket(AF_INET, type | SOCK_CLOEXEC | flags, 0);
  if (fd < 0) die("socket");
  if (type == SOCK_STREAM) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY);
    // A close that resets leaves no TIME_WAIT behind.
    struct linger reset = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  }
  if (opt.sources > 0) {
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000002u + index % (unsigned)opt.sources);
    set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    if (bind(fd, (void *)&source, sizeof source)) die("bind");
  }
  return fd;
}

static int connect_blocking(unsigned index) {
  int fd = new_socket(0, index);
  for (int i = 0; connect(fd, (void *)&server, sizeof server); i++) {
    if (i > 200 || (errno != ECONNREFUSED && errno != EAGAIN)) die("connect");
    usleep(10000);
  }
  return fd;
}

static void watch(conn *c, int op, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  if (epoll_ctl(epoll, op, c->fd, &event)) die("epoll_ctl");
}

static void flush_out(conn *c) {
  const char *source = c->kind == SPECIAL ? special_payload : payload;
  while (c->to_send) {
    u64 room = opt.mode == UDP ? (u64)c->size : BUFFER - c->at;
    ssize_t n = send(c->fd, source + c->at, c->to_send < room ? c->to_send : room, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      if (!c->watches_out) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
      c->watches_out = 1;
      return;
    }
    if (n < 0) die("send");
    c->to_send -= (u64)n;
    c->at = (c->at + (u64)n) % (u64)c->size;
  }
  if (c->watches_out) watch(c, EPOLL_CTL_MOD, EPOLLIN);
  c->watches_out = 0;
}

static void queue_message(conn *c, u64 time) {
  if (c->head - c->tail >= RING) {
    dropped++;
    return;
  }
  c->ring[c->head++ % RING] = time;
  if (c->kind == NORMAL) outstanding++;
  c->to_send += (u64)c->size;
}

static void count_reply(conn *c, u64 sent, u64 time) {
  u64 took = time - sent;
  if (c->kind == NORMAL) outstanding--;
  if (!recording) return;
  switch (c->kind) {
    case NORMAL:
      trips++;
      record(specials_out || sent < specials_end ? beside : latency, took);
      break;
    case HOT:
      hot_trips++;
      break;
    case SPECIAL:
      special_done++;
      special_sum += took;
      if (took > special_max) special_max = took;
  }
}

// Reads once, and in a closed loop sends a message for each reply.
static void drain(conn *c) {
  ssize_t n = recv(c->fd, buffer, BUFFER, 0);
  if (n == 0) errno = ECONNRESET;
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) die("the server closed a connection");
  if (opt.mode == HTTP && !c->got && (n < 12 || memcmp(buffer, "HTTP/1.1 200", 12))) {
    errno = EPROTO;
    die("a reply is not 200");
  }
  u64 time = now();
  int replies = 0;
  c->got += (u64)n;
  for (; c->got >= (u64)c->reply && c->tail != c->head; replies++) {
    c->got -= (u64)c->reply;
    count_reply(c, c->ring[c->tail++ % RING], time);
  }
  if (c->kind == SPECIAL) {
    specials_out -= replies;
    if (!specials_out) specials_end = time;
    return;
  }
  if (opt.pace_us && c->kind == NORMAL) return;
  for (int i = 0; i < replies; i++) queue_message(c, time);
  flush_out(c);
}

// Datagrams may be lost. A client whose replies are overdue starts anew.
static void resend_overdue(conn *conns, u64 time) {
  for (conn *c = conns; c < conns + opt.conns; c++) {
    if (c->head == c->tail || time - c->ring[c->tail % RING] < 200 * MILLISECOND) continue;
    uint32_t lost = c->head - c->tail;
    dropped += lost;
    outstanding -= lost;
    c->tail = c->head;
    c->got = 0;
    for (uint32_t i = 0; i < lost; i++) queue_message(c, time);
    flush_out(c);
  }
}

// ---- options

typedef struct {
  const char *name;
  void *place;
  char type;  // i int, d double, u u64, s string
} option;

static void read_options(int argc, char **argv) {
  const option options[] = {
      {"--addr", &opt.addr, 's'},           {"--mode", &opt.mode_name, 's'},
      {"--conns", &opt.conns, 'i'},         {"--size", &opt.size, 'i'},
      {"--depth", &opt.depth, 'i'},         {"--secs", &opt.secs, 'd'},
      {"--warmup", &opt.warmup, 'd'},       {"--trips", &opt.trips, 'u'},
      {"--idle", &opt.idle, 'i'},           {"--settle-ms", &opt.settle_ms, 'i'},
      {"--src", &opt.sources, 'i'},         {"--pace-us", &opt.pace_us, 'i'},
      {"--special", &opt.special, 's'},     {"--special-conns", &opt.specials, 'i'},
      {"--hot", &opt.hot, 'i'},             {"--hot-depth", &opt.hot_depth, 'i'},
      {"--hot-size", &opt.hot_size, 'i'},   {"--special-gap-ms", &opt.special_gap_ms, 'i'},
      {"--pid", &opt.pid, 'i'},             {"--cpu", &opt.cpu, 'i'},
  };
  const size_t count = sizeof options / sizeof *options;
  for (int i = 1; i < argc; i += 2) {
    size_t k = 0;
    while (k < count && strcmp(argv[i], options[k].name)) k++;
    if (k == count || i + 1 == argc) {
      fprintf(stderr, "load: %s: no such option, or no value\n", argv[i]);
      exit(2);
    }
    void *place = options[k].place;
    switch (options[k].type) {
      case 'i': *(int *)place = atoi(argv[i + 1]); break;
      case 'd': *(double *)place = atof(argv[i + 1]); break;
      case 'u': *(u64 *)place = strtoull(argv[i + 1], NULL, 10); break;
      case 's': *(const char **)place = argv[i + 1];
    }
  }
}

static void check(int holds, const char *rule) {
  if (holds) return;
  fprintf(stderr, "load: %s\n", rule);
  exit(2);
}

static void check_options(void) {
  char host[64];
  int port = 0;
  int is_addr = opt.addr && sscanf(opt.addr, "%63[^:]:%d", host, &port) == 2;
  check(is_addr && !strncmp(host, "127.", 4), "--addr must be 127.x.x.x:PORT");
  server.sin_family = AF_INET;
  server.sin_port = htons((uint16_t)port);
  check(inet_pton(AF_INET, host, &server.sin_addr) == 1, "--addr must be 127.x.x.x:PORT");
  while (opt.mode <= BURST && strcmp(opt.mode_name, MODES[opt.mode])) opt.mode++;
  check(opt.mode <= BURST, "--mode is one of echo, http, udp, churn and burst");
  check(opt.secs <= 120 && opt.warmup <= 30, "a run takes at most 120 s, its warm-up 30 s");
  check(opt.conns >= 1 && opt.size >= 1 && opt.size <= BUFFER, "--conns or --size is out of range");
  check(opt.mode != UDP || opt.size <= 2048, "a datagram has at most 2048 bytes");
  int deep = opt.depth > RING || opt.hot_depth > RING;
  check(opt.depth >= 1 && !deep, "a depth is from 1 to 4096");
}

// ---- set-up

// Fills the payload with whole messages, so that each of its bytes may follow a partial write.
static void fill_payload(void) {
  payload = malloc(2 * BUFFER);
  special_payload = malloc(2 * BUFFER);
  buffer = malloc(BUFFER);
  memset(payload, 'x', 2 * BUFFER);
  memset(special_payload, opt.special[0] == 'b' ? 'B' : 'S', 2 * BUFFER);
  reply_size = opt.size;
  if (opt.mode != HTTP) return;
  static const char request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
  opt.size = (int)sizeof request - 1;
  for (int at = 0; at + opt.size <= 2 * BUFFER; at += opt.size)
    memcpy(payload + at, request, (size_t)opt.size);
}

// The length of the reply to a request. All have the same: the fields of a date have fixed widths.
static int measure_reply(void) {
  int fd = connect_blocking(0);
  size_t got = 0;
  char *end = NULL, *length;
  if (send(fd, payload, (size_t)opt.size, MSG_NOSIGNAL) != opt.size) die("the first request");
  while (!end) {
    ssize_t n = recv(fd, buffer + got, BUFFER - 1 - got, 0);
    if (n <= 0) die("the first reply");
    got += (size_t)n;
    buffer[got] = 0;
    end = strstr(buffer, "\r\n\r\n");
  }
  close(fd);
  length = strcasestr(buffer, "\r\ncontent-length:");
  errno = EPROTO;
  if (!length || length > end) die("the first reply has no Content-Length");
  return (int)(end + 4 - buffer) + atoi(length + strlen("\r\ncontent-length:"));
}

// Opens the idle connections one by one. Each makes a round trip and rests.
static double open_idle(void) {
  u64 start = now();
  char reply[64];
  for (int i = 0; i < opt.idle; i++) {
    int fd = connect_blocking((unsigned)i);
    if (send(fd, payload, sizeof reply, MSG_NOSIGNAL) != sizeof reply) die("send of an idle one");
    for (size_t got = 0; got < sizeof reply;) {
      ssize_t n = recv(fd, reply, sizeof reply, 0);
      if (n <= 0) die("reply to an idle one");
      got += (size_t)n;
    }
  }
  return (double)(now() - start) / 1e9;
}

static conn *open_conns(int count) {
  conn *conns = calloc((size_t)count, sizeof *conns);
  for (int i = 0; i < count; i++) {
    conn *c = &conns[i];
    c->kind = i < opt.conns ? NORMAL : i < opt.conns + opt.hot ? HOT : SPECIAL;
    c->size = c->kind == NORMAL ? opt.size : c->kind == HOT ? opt.hot_size : 64;
    c->reply = opt.mode == HTTP ? reply_size : c->size;
    c->depth = c->kind == NORMAL ? opt.depth : c->kind == HOT ? opt.hot_depth : 1;
    c->fd = -1;
    if (opt.mode >= CHURN) continue;
    c->ring = malloc(sizeof(u64) * RING);
    c->fd = connect_blocking((unsigned)(opt.idle + i));
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
  }
  return conns;
}

// ---- the loops

typedef struct {
  u64 record_from, until;
  u64 pace, due, due_conn;  // paced: the interval, the next message's time and its connection
  u64 special_due;          // when the next batch of special messages is due, 0 if not known
  u64 started;              // when recording began
  usage before;
} schedule;

static schedule new_schedule(void) {
  u64 time = now();
  schedule s = {.record_from = time + (u64)(opt.warmup * 1e9), .due = time};
  if (opt.pace_us) s.pace = (u64)opt.pace_us * 1000 / (u64)opt.conns;
  return s;
}

static void begin_recording(schedule *s, u64 time) {
  if (recording || time < s->record_from) return;
  recording = 1;
  s->before = usage_of(opt.pid);
  s->started = s->special_due = now();
  s->until = s->started + (u64)(opt.secs * 1e9);
}

static int is_over(const schedule *s, u64 time) {
  return recording && (time >= s->until || (opt.trips && trips >= opt.trips));
}

static void earlier(u64 *timeout, u64 due, u64 time) {
  if (due - time < *timeout) *timeout = due - time;
}

static void send_due(schedule *s, conn *conns, u64 time, u64 *timeout) {
  for (; s->due <= time; s->due += s->pace) {
    conn *c = &conns[s->due_conn];
    queue_message(c, s->due);
    flush_out(c);
    s->due_conn = (s->due_conn + 1) % (u64)opt.conns;
  }
  earlier(timeout, s->due, time);
}

// Sends a batch of special messages, a while after the last of the batch before was answered.
static void send_specials(schedule *s, conn *specials, u64 time, u64 *timeout) {
  if (!s->special_due) s->special_due = time + (u64)opt.special_gap_ms * MILLISECOND;
  if (time < s->special_due) return earlier(timeout, s->special_due, time);
  for (int i = 0; i < opt.specials; i++) {
    queue_message(&specials[i], time);
    specials_out++;
    flush_out(&specials[i]);
  }
  s->special_due = 0;
}

static int wait_events(struct epoll_event *events, u64 timeout) {
  struct timespec time = {0, (long)timeout};
  int n = epoll_pwait2(epoll, events, EVENTS, &time, NULL);
  if (n < 0 && errno != EINTR) die("epoll_pwait2");
  return n;
}

static void run_loop(schedule *s, conn *conns) {
  struct epoll_event events[EVENTS];
  for (conn *c = conns; c < conns + opt.conns + opt.hot; c++) {
    if (s->pace && c->kind == NORMAL) continue;
    for (int d = 0; d < c->depth; d++) queue_message(c, now());
    flush_out(c);
  }
  u64 next_look = now() + 100 * MILLISECOND;
  for (;;) {
    u64 time = now(), timeout = 50 * MILLISECOND;
    begin_recording(s, time);
    int over = is_over(s, time);
    if (over) {
      // The last batch of special messages, and the messages that it delayed, may finish.
      int waits = specials_out || (opt.specials && outstanding > 0);
      if (!waits || time >= s->until + 5 * SECOND) return;
    }
    if (s->pace && (!over || specials_out)) send_due(s, conns, time, &timeout);
    if (opt.specials && recording && !specials_out && !over)
      send_specials(s, conns + opt.conns + opt.hot, time, &timeout);
    if (opt.mode == UDP && time >= next_look) {
      resend_overdue(conns, time);
      next_look = time + 100 * MILLISECOND;
    }
    int n = wait_events(events, timeout);
    for (int i = 0; i < n; i++) {
      if (events[i].events & EPOLLOUT) flush_out(events[i].data.ptr);
      if (events[i].events & ~(uint32_t)EPOLLOUT) drain(events[i].data.ptr);
    }
  }
}

static void abandon(conn *c) {
  errors++;
  close(c->fd);
  c->fd = -1;
}

static void begin_connect(conn *c, unsigned index) {
  c->fd = new_socket(SOCK_NONBLOCK, index);
  c->born = now();
  c->got = 0;
  c->connecting = 1;
  if (connect(c->fd, (void *)&server, sizeof server) && errno != EINPROGRESS) return abandon(c);
  watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void end_connect(conn *c) {
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error || send(c->fd, payload, (size_t)opt.size, MSG_NOSIGNAL) != opt.size)
    return abandon(c);
  c->connecting = 0;
  watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

// Whether a connection's round trip has ended.
static int has_reply(conn *c) {
  ssize_t n = recv(c->fd, buffer, BUFFER, 0);
  if (n <= 0) {
    abandon(c);
    return 0;
  }
  c->got += (u64)n;
  return c->got >= (u64)opt.size;
}

static void run_churn(schedule *s, conn *conns) {
  struct epoll_event events[EVENTS];
  unsigned opened = 0;
  for (;;) {
    u64 time = now();
    begin_recording(s, time);
    if (is_over(s, time)) return;
    for (conn *c = conns; c < conns + opt.conns; c++)
      if (c->fd < 0) begin_connect(c, opened++);
    int n = wait_events(events, 10 * MILLISECOND);
    for (int i = 0; i < n; i++) {
      conn *c = events[i].data.ptr;
      if (c->connecting) {
        end_connect(c);
      } else if (has_reply(c)) {
        if (recording) {
          trips++;
          record(latency, now() - c->born);
        }
        close(c->fd);
        c->fd = -1;
      }
    }
  }
}

static void run_burst(schedule *s, conn *conns) {
  struct epoll_event events[EVENTS];
  begin_recording(s, s->record_from);
  for (int i = 0; i < opt.conns; i++) begin_connect(&conns[i], (unsigned)i);
  for (int done = 0; done < opt.conns;) {
    if (now() >= s->until) {
      errors += (u64)(opt.conns - done);
      return;
    }
    int n = wait_events(events, 10 * MILLISECOND);
    for (int i = 0; i < n; i++) {
      conn *c = events[i].data.ptr;
      if (c->fd < 0) continue;
      if (c->connecting) {
        end_connect(c);
        continue;
      }
      if (!has_reply(c)) continue;
      trips++;
      c->got = 0;
      if (!c->done) record(latency, now() - c->born);
      done += !c->done;
      c->done = 1;
      if (send(c->fd, payload, (size_t)opt.size, MSG_NOSIGNAL) != opt.size) abandon(c);
    }
  }
}

// ---- the report

static void print_idle(usage start, usage rest, kernel_memory a, kernel_memory b, double secs) {
  double n = opt.idle, kb = 1024.0;
  printf(",\"idle\":%d,\"idle_open_s\":%.3f", opt.idle, secs);
  printf(",\"rss_start_kb\":%ld,\"rss_idle_kb\":%ld", start.rss_kb, rest.rss_kb);
  printf(",\"rss_per_idle_b\":%.0f", (double)(rest.rss_kb - start.rss_kb) * kb / n);
  printf(",\"idle_cpu_us_each\":%.2f", (rest.cpu_us - start.cpu_us) / n);
  printf(",\"kernel_slab_per_idle_b\":%.0f", (double)(b.slab - a.slab) * kb / n);
  printf(",\"kernel_stack_per_idle_b\":%.0f", (double)(b.stacks - a.stacks) * kb / n);
  printf(",\"page_tables_per_idle_b\":%.0f", (double)(b.page_tables - a.page_tables) * kb / n);
}

static void print_loads(double secs) {
  printf("\"trips\":%lu,\"secs\":%.3f,\"rps\":%.1f", trips, secs, (double)trips / secs);
  printf(",\"p50_us\":%.1f", microseconds_at(latency, 50));
  printf(",\"p99_us\":%.1f", microseconds_at(latency, 99));
  printf(",\"p999_us\":%.1f", microseconds_at(latency, 99.9));
  printf(",\"max_us\":%.1f", (double)latency->max / 1000.0);
  printf(",\"mean_us\":%.1f", mean_microseconds(latency));
  printf(",\"errors\":%lu,\"dropped\":%lu", errors, dropped);
  if (opt.hot) printf(",\"hot_rps\":%.1f", (double)hot_trips / secs);
  if (!opt.specials) return;
  printf(",\"busy_n\":%lu,\"busy_p50_us\":%.1f", beside->count, microseconds_at(beside, 50));
  printf(",\"busy_p99_us\":%.1f", microseconds_at(beside, 99));
  printf(",\"busy_p999_us\":%.1f", microseconds_at(beside, 99.9));
  printf(",\"busy_max_us\":%.1f", (double)beside->max / 1000.0);
  double mean = special_done ? (double)special_sum / (double)special_done / 1000.0 : 0;
  printf(",\"special_n\":%lu,\"special_mean_us\":%.1f", special_done, mean);
  printf(",\"special_max_us\":%.1f", (double)special_max / 1000.0);
}

static void print_server(usage before, usage after, double secs) {
  double cpu_us = after.cpu_us - before.cpu_us, n = (double)(trips + hot_trips);
  if (n < 1) n = 1;
  printf(",\"cpu_us_per_trip\":%.3f", cpu_us / n);
  printf(",\"cpu_s\":%.3f,\"server_cpu_pct\":%.1f", cpu_us / 1e6, cpu_us / 1e4 / secs);
  printf(",\"rss_kb\":%ld,\"hwm_kb\":%ld", after.rss_kb, after.hwm_kb);
  printf(",\"threads\":%ld", after.threads);
  printf(",\"vcsw_per_trip\":%.4f", (double)(i64)(after.voluntary - before.voluntary) / n);
  printf(",\"ivcsw_per_trip\":%.4f", (double)(i64)(after.involuntary - before.involuntary) / n);
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  read_options(argc, argv);
  check_options();
  if (opt.cpu >= 0) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(opt.cpu, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus)) die("--cpu");
  }
  latency = calloc(1, sizeof *latency);
  beside = calloc(1, sizeof *beside);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) die("epoll_create1");
  fill_payload();
  if (opt.mode == HTTP) reply_size = measure_reply();

  usage start = usage_of(opt.pid);
  kernel_memory kernel_start = kernel_memory_now();
  double idle_secs = open_idle();
  usleep((useconds_t)opt.settle_ms * 1000);
  usage rest = usage_of(opt.pid);
  kernel_memory kernel_rest = kernel_memory_now();

  conn *conns = open_conns(opt.conns + opt.hot + opt.specials);
  schedule s = new_schedule();
  switch (opt.mode) {
    case CHURN: run_churn(&s, conns); break;
    case BURST: run_burst(&s, conns); break;
    default: run_loop(&s, conns);
  }
  double secs = (double)(now() - s.started) / 1e9;
  usage end = usage_of(opt.pid);
  printf("{");
  print_loads(secs);
  if (opt.pid) print_server(s.before, end, secs);
  if (opt.pid && opt.idle) print_idle(start, rest, kernel_start, kernel_rest, idle_secs);
  printf("}\n");
  return 0;
}
