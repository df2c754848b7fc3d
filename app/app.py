"""Starts the app: `python app.py --help`. As a Hugging Face Space, this is the file that is run."""

from relevancy_app.starting import main

if __name__ == "__main__":
    main()
