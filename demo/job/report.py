"""What the demo has run elsewhere: reads a table that was uploaded beside it, prints, and leaves a file."""

import pathlib
import sys

import pandas

here = pathlib.Path(__file__).parent
sold = pandas.read_csv(here / "sales.csv").groupby("city").sold.sum()
print(sold.to_string())
print(f"pandas {pandas.__version__} on Python {sys.version.split()[0]}", file=sys.stderr)
sold.to_csv("/report.csv")
