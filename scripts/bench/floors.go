package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// floors are what no agent can beat on this machine at this moment.
type floors struct {
	fsync50, fsync99 time.Duration // 4 KiB append + fsync
	trip             time.Duration // loopback TCP round trip of one byte, p50
	stream           float64       // bytes/s of one TLS 1.3 stream on loopback
}

func takeFloors(dir string) (f floors, err error) {
	if f.fsync50, f.fsync99, err = fsyncFloor(dir, 300); err != nil {
		return f, err
	}
	if f.trip, err = tripFloor(2000); err != nil {
		return f, err
	}
	f.stream, err = streamFloor(256 << 20)
	return f, err
}

// fsyncFloor appends 4 KiB and syncs, n times.
func fsyncFloor(dir string, n int) (p50, p99 time.Duration, err error) {
	path := filepath.Join(dir, "floor")
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	page := make([]byte, 4096)
	took := make([]time.Duration, n)
	for i := range took {
		begin := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		took[i] = time.Since(begin)
	}
	return quantile(took, 0.5), quantile(took, 0.99), nil
}

// quantile sorts d and returns its q-quantile, or 0 for none.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// pair is both ends of a loopback connection.
func pair() (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if b, err = l.Accept(); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

func tripFloor(n int) (time.Duration, error) {
	a, b, err := pair()
	if err != nil {
		return 0, err
	}
	defer a.Close()
	defer b.Close()
	go func() { _, _ = io.Copy(b, b) }()
	took := make([]time.Duration, n)
	buf := make([]byte, 1)
	for i := range took {
		begin := time.Now()
		if _, err := a.Write(buf); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(a, buf); err != nil {
			return 0, err
		}
		took[i] = time.Since(begin)
	}
	return quantile(took, 0.5), nil
}

// securePair is pair under TLS 1.3. The peer is this process: there is nothing to verify.
func securePair() (client, server *tls.Conn, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	a, b, err := pair()
	if err != nil {
		return nil, nil, err
	}
	client = tls.Client(a, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	server = tls.Server(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
	return client, server, nil
}

func streamFloor(size int64) (float64, error) {
	client, server, err := securePair()
	if err != nil {
		return 0, err
	}
	defer client.NetConn().Close()
	defer server.NetConn().Close()
	sent := make(chan error, 1)
	begin := time.Now()
	go func() {
		chunk := make([]byte, 256<<10)
		for left := size; left > 0; left -= int64(len(chunk)) {
			if _, err := server.Write(chunk); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	buf := make([]byte, 256<<10)
	for got := int64(0); got < size; {
		n, err := client.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("read stream: %w", err)
		}
		got += int64(n)
	}
	return float64(size) / time.Since(begin).Seconds(), <-sent
}
