package httpd

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Readiness names what is missing before this node is of use; empty means ready.
type Readiness func() []string

type liveness struct {
	Alive bool      `json:"alive"`
	Node  string    `json:"node"`
	Time  time.Time `json:"time"`
}

type readiness struct {
	Ready   bool     `json:"ready"`
	Missing []string `json:"missing"`
}

// HealthRoutes answer probes. Liveness only says that the process answers; it never waits for anything else.
func HealthRoutes(node string, now func() time.Time, ready Readiness, metrics *prometheus.Registry) []Route {
	prom := promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})
	return []Route{
		{Pattern: "GET /healthz", Access: Open, Do: func(*http.Request) (any, error) {
			return liveness{Alive: true, Node: node, Time: now().UTC()}, nil
		}},
		{Pattern: "GET /readyz", Access: Open, Brief: true, Stream: func(w http.ResponseWriter, _ *http.Request) error {
			missing := ready()
			if len(missing) > 0 {
				writeJSON(w, http.StatusServiceUnavailable, readiness{Missing: missing})
				return nil
			}
			writeJSON(w, http.StatusOK, readiness{Ready: true, Missing: []string{}})
			return nil
		}},
		{Pattern: "GET /metrics", Access: Read, Brief: true, Stream: func(w http.ResponseWriter, r *http.Request) error {
			prom.ServeHTTP(w, r)
			return nil
		}},
	}
}
