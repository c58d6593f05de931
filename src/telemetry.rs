//! What can be observed: one function per fact, which writes the log line and the metric together so that the two
//! never drift apart. All names of metrics are here.
