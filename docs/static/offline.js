// Opened from a folder (file:), pages may not be fetched: results are then listed without a summary.
if (window.location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
