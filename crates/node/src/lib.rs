//! What both servers share: event log, clock, configuration, framed connections, shutdown
