//! The client SDK
