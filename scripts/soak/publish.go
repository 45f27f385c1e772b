package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// publisher states its events one after the other at one node's API.
type publisher struct {
	node, url, token, tag string
	out                   *os.File
}

// publish TAG EACH SECONDS DIR NODE=PORT=TOKENFILE…: one publisher a node, EACH events of each, spread evenly over SECONDS (or
// as long as it takes). Each waits for its answer before the next; an answer that does not come is asked for again under the
// same key. "number id" of what was accepted goes to DIR/pub-NODE as it comes.
func publish(ctx context.Context, a []string) error {
	if len(a) < 5 {
		return errors.New("usage: publish TAG EACH SECONDS DIR NODE=PORT=TOKENFILE…")
	}
	each, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(a[2], 64)
	if err != nil {
		return err
	}
	gap := time.Duration(seconds * float64(time.Second) / float64(each))
	var all []*publisher
	for _, spec := range a[4:] {
		f := strings.SplitN(spec, "=", 3)
		if len(f) != 3 {
			return fmt.Errorf("%q is not NODE=PORT=TOKENFILE", spec)
		}
		token, err := os.ReadFile(f[2])
		if err != nil {
			return err
		}
		out, err := os.OpenFile(a[3]+"/pub-"+f[0], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer out.Close()
		all = append(all, &publisher{node: f[0], url: "http://127.0.0.1:" + f[1] + "/api/v1/events", token: strings.TrimSpace(string(token)), tag: a[0], out: out})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, p := range all {
		group.Go(func() {
			if errs[i] = p.run(ctx, each, gap); errs[i] != nil {
				cancel() // one refusal ends the run
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (p *publisher) run(ctx context.Context, each int, gap time.Duration) error {
	client := &http.Client{Timeout: 15 * time.Second}
	defer client.CloseIdleConnections()
	due := time.NewTicker(max(gap, time.Microsecond))
	defer due.Stop()
	for i := 1; i <= each; i++ {
		for {
			id, err := p.state(ctx, client, i)
			if err == nil {
				if _, err := fmt.Fprintln(p.out, i, id); err != nil {
					return err
				}
				break
			}
			var refused refusal
			if errors.As(err, &refused) || ctx.Err() != nil {
				return fmt.Errorf("event %d at %s: %w", i, p.node, err)
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		select {
		case <-due.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// refusal is an answer that asking again does not change.
type refusal string

func (r refusal) Error() string { return "refused: " + string(r) }

// state makes one attempt and returns the id of the accepted event.
func (p *publisher) state(ctx context.Context, client *http.Client, number int) (string, error) {
	body, err := json.Marshal(map[string]any{"type": "OPERATOR_NOTE", "key": fmt.Sprintf("%s-%s-%d", p.tag, p.node, number),
		"payload": map[string]any{"text": p.tag, "data": map[string]any{"publisher": p.node, "number": number}}})
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+p.token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", err
	}
	switch {
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return "", refusal(fmt.Sprintf("%s %s", resp.Status, answer))
	case resp.StatusCode != http.StatusOK:
		return "", errors.New(resp.Status)
	}
	var got struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return "", err
	}
	if got.ID == "" {
		return "", fmt.Errorf("no id in %s", answer)
	}
	return got.ID, nil
}
