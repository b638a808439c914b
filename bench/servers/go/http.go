// http: plain text by net/http. go-http --addr 127.0.0.1:PORT --workers N
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"runtime"
)

func hello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, "Hello, World!")
}

func main() {
	addr := flag.String("addr", "127.0.0.1:9000", "")
	workers := flag.Int("workers", 2, "")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)
	log.Fatal(http.ListenAndServe(*addr, http.HandlerFunc(hello)))
}
