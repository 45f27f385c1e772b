package mesh_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// BenchmarkLoopback is the floor: one byte there and back over a held TCP connection.
func BenchmarkLoopback(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	must(b, err)
	defer c.Close()
	one := make([]byte, 1)
	for b.Loop() {
		if _, err := c.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall is a call with an empty body over the held connection.
func BenchmarkCall(b *testing.B) {
	r := newRing(b, nil)
	defer r.stop()
	a := r.found()
	to := r.join(id.Core)
	r.whole(10 * time.Second)
	b.ResetTimer()
	b.Run("one at a time", func(b *testing.B) {
		for b.Loop() {
			if _, err := a.mesh.CallRaw(b.Context(), to.id, "test.raw", nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := a.mesh.CallRaw(b.Context(), to.id, "test.raw", nil); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkIdle is five meshes over loopback with nothing to do: processor time of all, as a share of one core.
func BenchmarkIdle(b *testing.B) {
	r := newRing(b, nil)
	defer r.stop()
	r.found()
	for range 4 {
		r.join(id.Core)
	}
	r.whole(20 * time.Second)
	pass(12 * time.Second) // the exchanges after the joins
	before, began := cpu(b), time.Now()
	for b.Loop() {
		pass(15 * time.Second)
	}
	share := 100 * (cpu(b) - before).Seconds() / time.Since(began).Seconds()
	b.ReportMetric(share/5, "%core/mesh")
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
