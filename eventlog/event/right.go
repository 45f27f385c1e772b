package event

import (
	"crypto/sha256"
	"reflect"
)

// right says of the usual values of a type that they are such; of all others it says false, and check.wrong decodes them.
// raw is valid JSON.
func right(typ reflect.Type, raw []byte) bool {
	text := len(raw) > 2 && raw[0] == '"'
	switch typ {
	case rawType:
		return true
	case digestType:
		return text && isDigest(raw[1:len(raw)-1])
	case configType:
		return text && isConfig(raw[1:len(raw)-1])
	}
	switch typ.Kind() {
	case reflect.String:
		return text
	case reflect.Bool:
		return raw[0] == 't' || raw[0] == 'f'
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return isShort(raw, false)
	case reflect.Float64:
		return isShort(raw, true)
	case reflect.Slice:
		return typ.Elem().Kind() == reflect.String && isTexts(raw)
	}
	return false
}

// isShort says that a number is not negative and of so few digits that every type has room for it.
func isShort(raw []byte, point bool) bool {
	const most = 18
	for _, c := range raw {
		if (c < '0' || c > '9') && (c != '.' || !point) {
			return false
		}
	}
	return len(raw) <= most
}

// isDigest says of text without escapes what id.ParseDigest says.
func isDigest(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(b) == 2*sha256.Size
}

// isConfig says of text without escapes what id.ParseConfig says.
func isConfig(b []byte) bool {
	n := len(b) - len("_2p")
	if n < 1 || b[n] != '_' || b[n+1] < '1' || b[n+1] > '9' || b[n+2] != 'p' || b[0] < 'a' || b[0] > 'z' {
		return false
	}
	for i, c := range b[:n] {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '_' || b[i+1] == '_') {
			return false
		}
	}
	return true
}

// isTexts says that a list has nothing but strings.
func isTexts(raw []byte) bool {
	s := scanner{b: raw}
	if !s.eat('[') {
		return false
	}
	if s.eat(']') {
		return true
	}
	for {
		if _, ok := s.text(); !ok {
			return false
		}
		if s.eat(']') {
			return true
		}
		if !s.eat(',') {
			return false
		}
	}
}
