// echo: one goroutine for each connection.
// go-echo --addr 127.0.0.1:PORT --workers N [--deadline-ms D] [--buf BYTES]
package main

import (
	"flag"
	"log"
	"net"
	"runtime"
	"syscall"
	"time"
)

var sink uint64

// misbehave keeps the thread at the request of the workload stalls: S computes for about 200 ms, B
// is in a system call for 200 ms, unlike time.Sleep.
func misbehave(request byte) {
	switch request {
	case 'S':
		x := uint64(1)
		for i := 0; i < 100_000_000; i++ {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		sink = x
	case 'B':
		spec := syscall.NsecToTimespec(int64(200 * time.Millisecond))
		syscall.Nanosleep(&spec, nil)
	}
}

func serve(conn net.Conn, size int, deadline time.Duration) {
	defer conn.Close()
	buffer := make([]byte, size)
	for {
		if deadline > 0 {
			conn.SetReadDeadline(time.Now().Add(deadline))
		}
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		misbehave(buffer[0])
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:9000", "")
	workers := flag.Int("workers", 2, "")
	deadline := flag.Int("deadline-ms", 0, "")
	size := flag.Int("buf", 4096, "")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn, *size, time.Duration(*deadline)*time.Millisecond)
	}
}
