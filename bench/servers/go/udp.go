// udp: echoes datagrams, by a goroutine for each worker. Each has a socket of its own on the port.
// go-udp --addr 127.0.0.1:PORT --workers N
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"runtime"
	"syscall"
)

// reusePort is SO_REUSEPORT of Linux, which the package syscall does not have.
const reusePort = 15

func control(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1)
	})
}

func echo(addr string) {
	config := net.ListenConfig{Control: control}
	packets, err := config.ListenPacket(context.Background(), "udp4", addr)
	if err != nil {
		log.Fatal(err)
	}
	socket := packets.(*net.UDPConn)
	buffer := make([]byte, 2048)
	for {
		// These two methods do not allocate.
		n, client, err := socket.ReadFromUDPAddrPort(buffer)
		if err == nil {
			socket.WriteToUDPAddrPort(buffer[:n], client)
		}
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:9000", "")
	workers := flag.Int("workers", 2, "")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)
	for i := 1; i < *workers; i++ {
		go echo(*addr)
	}
	echo(*addr)
}
