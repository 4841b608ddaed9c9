//! Price sources, the replay of recorded prices, and the forecast
