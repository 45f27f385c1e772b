package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/leader/state"
)

// Records travel between replicas as frames: a kind, then for a record its seq, the log's running hash after it, and its
// bytes. They are checked by whoever takes them, so nothing here has to be believed.

const (
	frameRecord    byte = 1
	frameCompacted byte = 2
	frameFlush     byte = 3 // what came so far may be written
)

// maxRecord is what a record may have at most: it is made of one entry of Raft's log, of which every byte may be written as
// six ("<" as "\u003c"). Whoever took less for the limit would stand still before the first longer one, for ever.
const maxRecord = 6*state.MaxEntry + 4096

var errFrame = errors.New("malformed event frame")

func encodeFetch(c fetchCall) []byte {
	b, _ := json.Marshal(c) // two numbers always encode
	return b
}

func appendRecordFrame(b []byte, r eventlog.Encoded) []byte {
	b = append(b, frameRecord)
	b = binary.AppendUvarint(b, r.Seq)
	b = append(b, r.Hash[:]...)
	b = binary.AppendUvarint(b, uint64(len(r.Bytes)))
	return append(b, r.Bytes...)
}

func appendGapFrame(b []byte, c eventlog.Compacted) []byte {
	b = append(b, frameCompacted)
	for _, n := range []uint64{c.From, c.To, c.Oldest} {
		b = binary.AppendUvarint(b, n)
	}
	return append(b, c.Hash[:]...)
}

type frameReader interface {
	io.Reader
	io.ByteReader
}

// readFrame reads one frame; exactly one of the results is set, or none for a flush.
func readFrame(r frameReader) (*eventlog.Encoded, *eventlog.Compacted, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case frameFlush:
		return nil, nil, nil
	case frameRecord:
		var rec eventlog.Encoded
		if rec.Seq, err = binary.ReadUvarint(r); err != nil {
			return nil, nil, err
		}
		if _, err = io.ReadFull(r, rec.Hash[:]); err != nil {
			return nil, nil, err
		}
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, nil, err
		}
		if n > maxRecord {
			return nil, nil, fmt.Errorf("%w: record of %d bytes", errFrame, n)
		}
		rec.Bytes = make([]byte, n)
		_, err = io.ReadFull(r, rec.Bytes)
		return &rec, nil, err
	case frameCompacted:
		var c eventlog.Compacted
		for _, n := range []*uint64{&c.From, &c.To, &c.Oldest} {
			if *n, err = binary.ReadUvarint(r); err != nil {
				return nil, nil, err
			}
		}
		_, err = io.ReadFull(r, c.Hash[:])
		return nil, &c, err
	}
	return nil, nil, fmt.Errorf("%w: kind %d", errFrame, kind)
}

// decodeRecords reads an answer to a fetch: records, or a gap.
func decodeRecords(b []byte) ([]eventlog.Encoded, *eventlog.Compacted, error) {
	r := bytes.NewReader(b)
	var out []eventlog.Encoded
	for {
		rec, gap, err := readFrame(r)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil, nil
		case err != nil:
			return nil, nil, err
		case gap != nil:
			return nil, gap, nil
		case rec != nil:
			out = append(out, *rec)
		}
	}
}

// readRecords reads a stream and hands records on in the groups in which they were written.
func readRecords(body io.Reader, take func([]eventlog.Encoded)) error {
	r := bufio.NewReaderSize(body, 64<<10)
	var batch []eventlog.Encoded
	for {
		rec, gap, err := readFrame(r)
		switch {
		case err != nil:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case gap != nil:
			return gap
		case rec != nil:
			batch = append(batch, *rec)
			continue
		}
		if len(batch) > 0 {
			take(batch)
			batch = nil
		}
	}
}
