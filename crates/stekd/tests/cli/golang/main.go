// A server on Go's crypto/tls, for the tests of the probe. It prints where it listens, and ends with
// its standard input.
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"
)

func main() {
	folder := flag.String("tls", "", "the folder with server.pem and server.key")
	words := flag.String("key", "", "what its ticket key is made of; left out, it draws one of its own")
	haste := flag.Duration("haste", 0, "how much its clock gains in a second")
	flag.Parse()

	certificate, err := tls.LoadX509KeyPair(*folder+"/server.pem", *folder+"/server.key")
	if err != nil {
		log.Fatal(err)
	}
	start := time.Now()
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		Time: func() time.Time {
			now := time.Now()
			return now.Add(time.Duration(now.Sub(start).Seconds() * float64(*haste)))
		},
	}
	if *words != "" {
		config.SetSessionTicketKeys([][32]byte{sha256.Sum256([]byte(*words))})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go serve(tls.NewListener(listener, config))
	fmt.Println(listener.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func serve(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			connection.SetDeadline(time.Now().Add(time.Minute))
			io.Copy(io.Discard, connection)
		}()
	}
}
