"""Money: amounts, prices, bills."""
