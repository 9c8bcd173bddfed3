// Command godriver drives the Go server-side SDK for Pilotlight's tests.
//
// It speaks the line protocol of tests/sdks/README.md: one JSON command per line on stdin, one
// JSON answer per line on stdout. The SDK's own log goes to stderr. It ends when stdin closes.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-sdk-common/v3/ldlog"
	"github.com/launchdarkly/go-sdk-common/v3/ldreason"
	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"
	ld "github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/interfaces"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"
)

const (
	// Between two looks at a condition; short against the delays that tests measure.
	pollInterval = 2 * time.Millisecond
	// A dead relay must not hold up the end of the process: closing flushes events.
	closeLimit = 2 * time.Second
)

type command struct {
	Cmd        string             `json:"cmd"`
	TimeoutMS  int                `json:"timeout_ms"`
	IntervalMS int                `json:"interval_ms"`
	Flag       string             `json:"flag"`
	Flags      []string           `json:"flags"`
	Default    ldvalue.Value      `json:"default"`
	Value      ldvalue.Value      `json:"value"`
	Context    *ldcontext.Context `json:"context"`
	Kind       string             `json:"kind"`
	Items      []json.RawMessage  `json:"items"`
	Features   []json.RawMessage  `json:"features"`
	Segments   []json.RawMessage  `json:"segments"`
}

func (c *command) context() ldcontext.Context {
	if c.Context != nil {
		return *c.Context
	}
	return ldcontext.New("u1")
}

type answer map[string]any

func isFallback(detail ldreason.EvaluationDetail) bool {
	return detail.IsDefaultValue() || detail.Reason.GetKind() == ldreason.EvalReasonError
}

func until(timeoutMS int, condition func() bool) bool {
	deadline := time.Now().Add(time.Duration(timeoutMS) * time.Millisecond)
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollInterval)
	}
	return true
}

// watcher evaluates flags for as long as the process lives and counts what fell back.
type watcher struct {
	lock          sync.Mutex
	evaluations   int
	fallbacks     int
	beforeInit    int
	longestPause  time.Duration
	firstFallback answer
}

func (w *watcher) run(client *ld.LDClient, cmd command) {
	initialized := false
	context := cmd.context()
	last := time.Now()
	for {
		initialized = initialized || client.Initialized()
		for _, key := range cmd.Flags {
			// The error repeats what the reason says.
			_, detail, _ := client.JSONVariationDetail(key, context, ldvalue.Null())
			w.count(key, detail, initialized)
		}
		now := time.Now()
		w.lock.Lock()
		w.longestPause = max(w.longestPause, now.Sub(last))
		w.lock.Unlock()
		last = now
		time.Sleep(time.Duration(cmd.IntervalMS) * time.Millisecond)
	}
}

func (w *watcher) count(key string, detail ldreason.EvaluationDetail, initialized bool) {
	w.lock.Lock()
	defer w.lock.Unlock()
	if !initialized {
		w.beforeInit++
		return
	}
	w.evaluations++
	if isFallback(detail) {
		w.fallbacks++
		if w.firstFallback == nil {
			w.firstFallback = answer{"flag": key, "reason": detail.Reason}
		}
	}
}

func (w *watcher) report() answer {
	w.lock.Lock()
	defer w.lock.Unlock()
	return answer{
		"evaluations":      w.evaluations,
		"fallbacks":        w.fallbacks,
		"before_init":      w.beforeInit,
		"longest_pause_ms": w.longestPause.Milliseconds(),
		"first_fallback":   w.firstFallback,
	}
}

type driver struct {
	client  *ld.LDClient
	started time.Time
	watcher *watcher
	writer  *writer
}

type arguments struct {
	sdkKey   string
	mode     string
	events   string
	url      string
	database database
}

func newDriver(args arguments) (*driver, error) {
	logger := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	loggers := ldlog.NewDefaultLoggers()
	loggers.SetBaseLogger(logger)
	config := ld.Config{
		Logging: ldcomponents.Logging().Loggers(loggers),
		ServiceEndpoints: interfaces.ServiceEndpoints{
			Streaming: args.url, Polling: args.url, Events: args.url,
		},
	}
	var writer *writer
	switch args.mode {
	case "stream":
		config.DataSource = ldcomponents.StreamingDataSource()
	case "poll":
		config.DataSource = ldcomponents.PollingDataSource()
	case "daemon":
		store, err := args.database.configurer()
		if err != nil {
			return nil, err
		}
		config.DataSource = ldcomponents.ExternalUpdatesOnly()
		config.DataStore = ldcomponents.PersistentDataStore(store).NoCaching()
		if writer, err = newWriter(store, loggers); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("-mode must be stream, poll or daemon, not %q", args.mode)
	}
	switch args.events {
	case "on":
	case "off":
		config.Events = ldcomponents.NoEvents()
		config.DiagnosticOptOut = true
	default:
		return nil, fmt.Errorf("-events must be on or off, not %q", args.events)
	}
	started := time.Now()
	client, err := ld.MakeCustomClient(args.sdkKey, config, 0)
	if err != nil {
		return nil, err
	}
	return &driver{client: client, started: started, writer: writer}, nil
}

func (d *driver) detail(key string, context ldcontext.Context, fallback ldvalue.Value) answer {
	value, detail, _ := d.client.JSONVariationDetail(key, context, fallback)
	return answer{"value": value, "variation": detail.VariationIndex, "reason": detail.Reason}
}

func (d *driver) awaitValue(cmd command) answer {
	begun := time.Now()
	var last ldvalue.Value
	matched := until(cmd.TimeoutMS, func() bool {
		value, detail, _ := d.client.JSONVariationDetail(cmd.Flag, cmd.context(), ldvalue.Null())
		last = value
		return !isFallback(detail) && value.Equal(cmd.Value)
	})
	return answer{"matched": matched, "elapsed_ms": time.Since(begun).Milliseconds(), "value": last}
}

func (d *driver) status() answer {
	status := d.client.GetDataSourceStatusProvider().GetStatus()
	var lastError any
	if status.LastError.Kind != "" {
		lastError = answer{"kind": status.LastError.Kind, "status_code": status.LastError.StatusCode}
	}
	return answer{
		"state":       status.State,
		"initialized": d.client.Initialized(),
		"last_error":  lastError,
	}
}

func (d *driver) run(cmd command) (answer, error) {
	switch cmd.Cmd {
	case "wait_init":
		initialized := until(cmd.TimeoutMS, d.client.Initialized)
		elapsed := time.Since(d.started).Milliseconds()
		return answer{"initialized": initialized, "elapsed_ms": elapsed}, nil
	case "eval":
		return d.detail(cmd.Flag, cmd.context(), cmd.Default), nil
	case "eval_all":
		results := answer{}
		for _, key := range cmd.Flags {
			results[key] = d.detail(key, cmd.context(), ldvalue.Null())
		}
		return answer{"results": results}, nil
	case "all_flags":
		state := d.client.AllFlagsState(cmd.context())
		return answer{"valid": state.IsValid(), "values": state.ToValuesMap()}, nil
	case "await_value":
		return d.awaitValue(cmd), nil
	case "status":
		return d.status(), nil
	case "watch_start":
		if d.watcher != nil {
			return nil, errors.New("the watcher runs already")
		}
		d.watcher = &watcher{}
		go d.watcher.run(d.client, cmd)
		return answer{}, nil
	case "watch_report":
		if d.watcher == nil {
			return nil, errors.New("the watcher was not started")
		}
		return d.watcher.report(), nil
	case "store_upsert", "store_init":
		return answer{}, d.write(cmd)
	default:
		return nil, fmt.Errorf("unknown command %q", cmd.Cmd)
	}
}

func (d *driver) write(cmd command) error {
	if d.writer == nil {
		return errors.New("the mode is not daemon")
	}
	if cmd.Cmd == "store_init" {
		return d.writer.init(cmd.Features, cmd.Segments)
	}
	return d.writer.upsert(cmd.Kind, cmd.Items)
}

func (d *driver) close() {
	closed := make(chan error, 1)
	go func() { closed <- d.client.Close() }()
	select {
	case <-closed:
	case <-time.After(closeLimit):
	}
}

func say(out io.Writer, body answer) {
	if _, given := body["ok"]; !given {
		body["ok"] = true
	}
	line, err := json.Marshal(body)
	if err != nil {
		log.Fatalf("answer cannot be written as JSON: %v", err)
	}
	fmt.Fprintf(out, "%s\n", line)
}

func main() {
	var args arguments
	flag.StringVar(&args.sdkKey, "sdk-key", "", "SDK key")
	flag.StringVar(&args.mode, "mode", "", "stream, poll or daemon")
	flag.StringVar(&args.events, "events", "", "on or off")
	flag.StringVar(&args.url, "url", "", "base URL of the relay")
	flag.StringVar(&args.database.store, "store", "", "redis or dynamodb")
	flag.StringVar(&args.database.address, "address", "", "host and port of the database")
	flag.StringVar(&args.database.prefix, "prefix", "", "prefix of the environment's keys")
	flag.StringVar(&args.database.table, "table", "", "table, in DynamoDB")
	flag.Parse()
	driver, err := newDriver(args)
	if err != nil {
		log.Fatal(err)
	}
	say(os.Stdout, answer{"sdk": "go", "version": ld.Version})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var cmd command
		if err := json.Unmarshal(lines.Bytes(), &cmd); err != nil {
			say(os.Stdout, answer{"ok": false, "error": err.Error()})
			continue
		}
		if cmd.Cmd == "quit" {
			say(os.Stdout, answer{})
			break
		}
		result, err := driver.run(cmd)
		if err != nil {
			result = answer{"ok": false, "error": err.Error()}
		}
		say(os.Stdout, result)
	}
	driver.close()
}
