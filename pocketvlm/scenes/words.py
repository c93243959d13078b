"""What the scenes say: short everyday words, prices, times, codes."""

from __future__ import annotations

import random

GOODS = (
    "Apples", "Bagel", "Bananas", "Beans", "Bread", "Butter", "Cake", "Candy", "Carrots", "Cheese", "Cherry", "Chips",
    "Cocoa", "Coffee", "Cookie", "Corn", "Cream", "Dates", "Eggs", "Fish", "Flour", "Garlic", "Grapes", "Ham", "Honey",
    "Jam", "Juice", "Kiwi", "Leek", "Lemon", "Mango", "Melon", "Milk", "Mint", "Muffin", "Nuts", "Oats", "Oil",
    "Olives", "Onion", "Orange", "Pasta", "Peach", "Pear", "Peas", "Pepper", "Pizza", "Plums", "Rice", "Salad", "Salt",
    "Soap", "Soda", "Soup", "Steak", "Sugar", "Tea", "Tofu", "Tomato", "Towel", "Tuna", "Water", "Wine", "Yogurt",
)  # fmt: skip
SHOPS = (
    "Bakery", "Bistro", "Bookshop", "Cafe Luna", "Corner", "Deli", "Diner", "Farm Shop", "Food Hall", "Grocer",
    "Harvest", "Kiosk", "Market", "Mini Mart", "Noodles", "Pizzeria", "Snack Bar", "Stores", "Sunrise", "Tea House",
)  # fmt: skip
APPS = (
    "Alarm", "Album", "Battery", "Books", "Calendar", "Camera", "Chat", "Clock", "Contacts", "Display", "Files",
    "Games", "Health", "Inbox", "Library", "Maps", "Messages", "Music", "News", "Notes", "Photos", "Player", "Privacy",
    "Profile", "Radio", "Search", "Settings", "Sound", "Storage", "System", "Tasks", "Updates", "Wallet", "Weather",
)  # fmt: skip
SWITCHES = (
    "Airplane", "Alerts", "Backup", "Cellular", "Cloud", "Dark mode", "Flash", "Haptics", "Hotspot", "Keyboard",
    "Lock", "Location", "Mobile", "Mute", "Night", "Roaming", "Rotate", "Screen", "Sync", "Torch", "Vibrate", "Wi-Fi",
)  # fmt: skip
STATES = ("On", "Off")
MESSAGES = (
    "Are you sure?", "Call ended", "Delete file?", "Disk full", "Install now?", "Log out?", "Low battery",
    "New message", "No network", "Open link?", "Photo saved", "Save changes?", "Send report?", "Sign in", "Stop timer?",
    "Try again?", "Turn off?", "Update ready",
)  # fmt: skip
BUTTONS = (
    "Accept", "Allow", "Back", "Cancel", "Close", "Delete", "Deny", "Done", "Later", "Next", "No", "OK", "Open",
    "Retry", "Save", "Send", "Skip", "Start", "Stop", "Yes",
)  # fmt: skip
SIGNS = (
    "Airport", "Bridge", "Bus Stop", "Cafe", "Castle", "City", "Closed", "Danger", "Dead End", "Detour", "Elevator",
    "Entrance", "Exit", "Ferry", "Garden", "Gate", "Harbor", "Hospital", "Hotel", "Keep Left", "Keep Right", "Lake",
    "Level", "Library", "Main St", "Museum", "No Entry", "Office", "One Way", "Open", "Park", "Parking", "Platform",
    "Pool", "Press", "Private", "Pull", "Push", "River", "Road", "School", "Slow", "Station", "Stop", "Street",
    "Taxi", "Ticket", "Toilets", "Tower", "Track", "Tunnel", "Valley", "Village", "Wet Floor", "Yield", "Zoo",
)  # fmt: skip
LABELS = (
    "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep",
    "Oct", "Nov", "Dec", "Ann", "Ben", "Eva", "Ian", "Jim", "Kim", "Leo", "Max", "Mia", "Tom", "Zoe", "East", "West",
    "CPU", "GPU", "NPU", "RAM", "Bus", "Car", "Tram", "Bike", "Cats", "Dogs",
)  # fmt: skip
#: codes leave out what looks alike in some faces: 0 O D Q, 1 I l, 2 Z, 5 S, 8 B
CODE_CHARACTERS = "34679ACEFGHJKLMNPRTUVWXY"
#: everything that a picture may say
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.:%?-"


def price(source: random.Random) -> int:
    """A price in cents: most are small."""
    return source.choice((source.randint(20, 999), source.randint(20, 999), source.randint(1000, 4999)))


def money(cents: int) -> str:
    """Cents as they stand on a receipt: 4.50."""
    return f"{cents // 100}.{cents % 100:02}"


def clock(source: random.Random) -> str:
    """A time of day, 24 hours: 7:05, 18:30."""
    return f"{source.randrange(24)}:{source.randrange(60):02}"


def code(source: random.Random) -> str:
    """A code of capitals and digits, nothing that could be guessed."""
    return "".join(source.choices(CODE_CHARACTERS, k=source.randint(3, 6)))


def number(source: random.Random) -> str:
    """A whole number of one to four digits."""
    return str(source.randrange(10 ** source.randint(1, 4)))


def any_text(source: random.Random) -> str:
    """A word, two words, a number, a price, a time or a code."""
    words = source.choice((GOODS, APPS, SIGNS, SHOPS, SWITCHES))
    kind = source.choices(("word", "two", "number", "price", "time", "code"), weights=(6, 3, 3, 2, 2, 4))[0]
    if kind == "word":
        return source.choice(words)
    if kind == "two":
        return f"{source.choice(words)} {source.choice((source.choice(words), number(source)))}"
    made = {"number": number, "price": lambda x: money(price(x)), "time": clock, "code": code}[kind]
    return made(source)
