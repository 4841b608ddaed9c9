//! The worker server
