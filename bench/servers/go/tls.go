// tls: echo over crypto/tls, one goroutine for each connection.
// go-tls --addr 127.0.0.1:PORT --workers N --cert FILE --key FILE [--buf BYTES]
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net"
	"runtime"
)

func serve(conn net.Conn, size int) {
	defer conn.Close()
	buffer := make([]byte, size)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:9000", "")
	workers := flag.Int("workers", 2, "")
	cert := flag.String("cert", "cert.pem", "")
	key := flag.String("key", "key.pem", "")
	size := flag.Int("buf", 4096, "")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	listener, err := tls.Listen("tcp", *addr, config)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn, *size)
	}
}
