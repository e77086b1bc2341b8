// A ranker's read in Go, on the standard library alone: one MGET, one version, float16. See ../redis-layout.md.
//
//	go run reader.go localhost:6379 f user-7 item-1 item-2
//
// prints for each item: id, present, tier, age in seconds, dot product with the user's log vector.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"time"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// mget answers the value of each key, nil where there is none.
func mget(server *bufio.ReadWriter, keys ...string) [][]byte {
	fmt.Fprintf(server, "*%d\r\n$4\r\nMGET\r\n", len(keys)+1)
	for _, key := range keys {
		fmt.Fprintf(server, "$%d\r\n%s\r\n", len(key), key)
	}
	server.Flush()
	var count, size int
	must(fmt.Fscanf(server, "*%d\n", &count))
	values := make([][]byte, count)
	for i := range values {
		if must(fmt.Fscanf(server, "$%d\n", &size)); size >= 0 {
			values[i] = make([]byte, size)
			must(io.ReadFull(server, values[i]))
			must(server.Discard(2))
		}
	}
	return values
}

// vector decodes the first vector of a blob, nil where it is absent, deleted, or of another format, dtype or width.
func vector(blob []byte, dims int) []float32 {
	if len(blob) < 40+2*dims || binary.LittleEndian.Uint64(blob)&0x0000FFFF0100FFFF != uint64(dims)<<32|0x0101 {
		return nil
	}
	values := make([]float32, dims)
	for i := range values { // sign and rest to their places in a float32, then the difference of the exponents' biases
		bits := uint32(binary.LittleEndian.Uint16(blob[40+2*i:]))
		values[i] = math.Float32frombits(bits&0x8000<<16|bits&0x7fff<<13) * (1 << 112)
	}
	return values
}

func main() {
	prefix, user, items, dims := os.Args[2], os.Args[3], os.Args[4:], 0
	connection := must(net.DialTimeout("tcp", os.Args[1], time.Second))
	connection.SetDeadline(time.Now().Add(time.Second))
	server := bufio.NewReadWriter(bufio.NewReader(connection), bufio.NewWriter(connection))
	// At the start only, as a ranker remembers the version of its last request; then until that one is the active one.
	values := mget(server, prefix+":active")
	for version := "?"; version != string(values[0]); {
		version = string(values[0])
		keys := []string{prefix + ":active", prefix + ":" + version + ":shape", prefix + ":" + version + ":u:" + user}
		for _, item := range items {
			keys = append(keys, prefix+":"+version+":i:"+item)
		}
		values = mget(server, keys...)
	}
	if values[1] != nil { // a version without vectors has no shape, and all is absent
		must(fmt.Sscanf(string(values[1]), "%d float16", &dims))
	}
	logVector := vector(values[2], dims)
	for i, blob := range values[3:] {
		item, tier, age, dot := vector(blob, dims), byte(0), math.Inf(1), float32(0)
		if item != nil {
			event := time.UnixMilli(int64(binary.LittleEndian.Uint64(blob[8:])))
			tier, age = blob[2], math.Max(time.Since(event).Seconds(), 0)
		}
		for j := 0; j < min(len(item), len(logVector)); j++ {
			dot += item[j] * logVector[j]
		}
		fmt.Println(items[i], item != nil, tier, age, dot)
	}
}
