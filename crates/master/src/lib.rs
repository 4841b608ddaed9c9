//! The master server
