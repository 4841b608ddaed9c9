//! no_future
