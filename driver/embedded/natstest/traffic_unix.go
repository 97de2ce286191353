//go:build unix

package natstest

// Traffic is what a server has counted since it was started.
type Traffic struct {
	InMsgs   int64 `json:"in_msgs"`
	OutMsgs  int64 `json:"out_msgs"`
	InBytes  int64 `json:"in_bytes"`
	OutBytes int64 `json:"out_bytes"`
}

// Traffic asks the server's monitoring.
func (s *Server) Traffic() (t Traffic) {
	s.t.Helper()
	if err := s.get("varz", &t); err != nil {
		s.t.Fatal(err)
	}
	return t
}
