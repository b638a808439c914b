// The reference for how cheap a server can be: edge-triggered epoll loops, one for each worker.
//
//   raw --addr 127.0.0.1:PORT --workers N [--deadline-ms D] [--buf BYTES] [--http 1] [--udp 1]
//
// The first worker accepts, and deals the connections out in turn. With --deadline-ms each read
// refreshes a time in its connection, and each worker looks through its connections four times for
// each deadline: no timer is set for a read. With --udp 1 each worker has a blocking socket of its
// own on the port.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct conn {
  int fd;
  uint32_t written, length;  // of what the socket did not take
  char *unsent;
  uint64_t deadline;
  struct conn *prev, *next;
} conn;

typedef struct {
  int epoll;
  pthread_mutex_t lock;  // guards the list, which the first worker adds to
  conn list;
  char *buffer;
} worker;

static const char REPLY[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
enum { REPLY_LENGTH = sizeof REPLY - 1, REPLIES_MAX = 64 };

static worker *workers;
static int worker_count = 1, listener, is_http, is_udp;
static struct sockaddr_in address = {.sin_family = AF_INET};
static uint64_t deadline_ns;
static size_t buffer_size = 4096;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t coarse_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// What the workload `stalls` asks for: S computes for about 200 ms, B blocks for 200 ms.
static void misbehave(char request) {
  if (request == 'S') {
    volatile uint64_t sink;
    uint64_t x = 1;
    for (int i = 0; i < 100000000; i++) {
      x ^= x << 13;
      x ^= x >> 7;
      x ^= x << 17;
    }
    sink = x;
    (void)sink;
  } else if (request == 'B') {
    usleep(200000);
  }
}

static void drop(worker *w, conn *c) {
  pthread_mutex_lock(&w->lock);
  c->prev->next = c->next;
  c->next->prev = c->prev;
  pthread_mutex_unlock(&w->lock);
  close(c->fd);
  free(c->unsent);
  free(c);
}

enum progress { FAILED, BLOCKED, DONE };

static enum progress send_rest(conn *c) {
  while (c->written < c->length) {
    ssize_t n = send(c->fd, c->unsent + c->written, c->length - c->written, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN ? BLOCKED : FAILED;
    c->written += (uint32_t)n;
  }
  free(c->unsent);
  c->unsent = NULL;
  return DONE;
}

// Sends `length` bytes. The connection keeps what the socket does not take.
static enum progress send_all(conn *c, const char *bytes, size_t length) {
  ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN) return FAILED;
  size_t sent = n < 0 ? 0 : (size_t)n;
  if (sent == length) return DONE;
  c->length = (uint32_t)(length - sent);
  c->written = 0;
  c->unsent = malloc(c->length);
  memcpy(c->unsent, bytes + sent, c->length);
  return send_rest(c);
}

// Answers the requests in `bytes`. A request in two reads is not handled: no load sends one.
static enum progress answer(conn *c, char *bytes, size_t length) {
  char replies[REPLY_LENGTH * REPLIES_MAX], *at = bytes;
  size_t size = 0;
  while ((at = memmem(at, (size_t)(bytes + length - at), "\r\n\r\n", 4))) {
    if (size == sizeof replies) return FAILED;
    memcpy(replies + size, REPLY, REPLY_LENGTH);
    size += REPLY_LENGTH;
    at += 4;
  }
  return send_all(c, replies, size);
}

// Reads and answers until the socket is empty.
static enum progress serve(worker *w, conn *c) {
  if (c->unsent) {
    enum progress rest = send_rest(c);
    if (rest != DONE) return rest;
  }
  for (;;) {
    ssize_t n = recv(c->fd, w->buffer, buffer_size, 0);
    if (n == 0) return FAILED;
    if (n < 0) return errno == EAGAIN ? BLOCKED : FAILED;
    if (deadline_ns) c->deadline = coarse_now() + deadline_ns;
    if (!is_http) misbehave(w->buffer[0]);
    enum progress sent = is_http ? answer(c, w->buffer, (size_t)n)
                                 : send_all(c, w->buffer, (size_t)n);
    if (sent != DONE) return sent;
    // After a short read the socket is empty, and the next byte makes an edge.
    if ((size_t)n < buffer_size) return BLOCKED;
  }
}

static void accept_all(void) {
  static unsigned turn;
  int fd, one = 1;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    worker *to = &workers[turn++ % (unsigned)worker_count];
    conn *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->deadline = coarse_now() + deadline_ns;
    pthread_mutex_lock(&to->lock);
    c->next = to->list.next;
    c->prev = &to->list;
    c->next->prev = c;
    to->list.next = c;
    pthread_mutex_unlock(&to->lock);
    uint32_t events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(to->epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
  }
}

static void drop_overdue(worker *w, uint64_t time) {
  for (conn *c = w->list.next, *next; c != &w->list; c = next) {
    next = c->next;
    if (c->deadline <= time) drop(w, c);
  }
}

static void *run(void *argument) {
  worker *w = argument;
  struct epoll_event events[256];
  uint64_t looked = coarse_now();
  int timeout = deadline_ns ? (int)(deadline_ns / 4000000 + 1) : -1;
  for (;;) {
    int n = epoll_wait(w->epoll, events, 256, timeout);
    for (int i = 0; i < n; i++) {
      conn *c = events[i].data.ptr;
      if (!c)
        accept_all();
      else if (serve(w, c) == FAILED)
        drop(w, c);
    }
    uint64_t time = deadline_ns ? coarse_now() : 0;
    if (time - looked <= deadline_ns / 4 || !deadline_ns) continue;
    looked = time;
    drop_overdue(w, time);
  }
  return NULL;
}

static int bound_socket(int type, int option) {
  int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), one = 1;
  setsockopt(fd, SOL_SOCKET, option, &one, sizeof one);
  if (bind(fd, (void *)&address, sizeof address)) die("bind");
  return fd;
}

static void *run_udp(void *argument) {
  (void)argument;
  int fd = bound_socket(SOCK_DGRAM, SO_REUSEPORT);
  char datagram[2048];
  for (;;) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(fd, datagram, sizeof datagram, 0, (void *)&from, &length);
    if (n >= 0) sendto(fd, datagram, (size_t)n, 0, (void *)&from, length);
  }
  return NULL;
}

static void read_options(int argc, char **argv) {
  char host[64] = "127.0.0.1";
  int port = 9000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const char *name = argv[i], *value = argv[i + 1];
    if (!strcmp(name, "--addr")) sscanf(value, "%63[^:]:%d", host, &port);
    if (!strcmp(name, "--workers")) worker_count = atoi(value);
    if (!strcmp(name, "--deadline-ms")) deadline_ns = strtoull(value, NULL, 10) * 1000000;
    if (!strcmp(name, "--buf")) buffer_size = strtoull(value, NULL, 10);
    if (!strcmp(name, "--http")) is_http = atoi(value);
    if (!strcmp(name, "--udp")) is_udp = atoi(value);
  }
  address.sin_port = htons((uint16_t)port);
  inet_pton(AF_INET, host, &address.sin_addr);
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  read_options(argc, argv);
  workers = calloc((size_t)worker_count, sizeof *workers);
  for (worker *w = workers; w < workers + worker_count; w++) {
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->buffer = malloc(buffer_size);
    pthread_mutex_init(&w->lock, NULL);
    w->list.next = w->list.prev = &w->list;
  }
  if (!is_udp) {
    listener = bound_socket(SOCK_STREAM | SOCK_NONBLOCK, SO_REUSEADDR);
    if (listen(listener, 4096)) die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(workers[0].epoll, EPOLL_CTL_ADD, listener, &event);
  }
  void *(*body)(void *) = is_udp ? run_udp : run;
  for (int i = 1; i < worker_count; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, body, &workers[i]);
  }
  body(&workers[0]);
}
