"""What people know of cities and countries that no table says: names, and what not to ask."""

# Disputed, or dependent on another country: no question has an answer everybody gives.
NO_QUESTIONS = {"EH", "HK", "MO", "PR", "PS", "TW", "XK"}

# Names that would make a bad question, by country: districts listed with more people than their
# city, tables that count a whole district as its town, disputed places, everyday words.
SKIP = {
    "AO": "Calumbo",
    "AR": "Santa Fe",  # another one is as well known
    "AU": "Central Coast; Logan City",
    "BD": "Mohammadpur; Shibganj",
    "CA": "Surrey",
    "CI": "San-Pedro",
    "CN": "Wuzhong",
    "EC": "Santo Domingo de los Colorados",
    "EG": "6th of October City",
    "ET": "Warder",
    "GW": "Bissau",  # gives the answer away
    "IL": "Jerusalem; West Jerusalem",
    "IN": "Kallakurichi; Najafgarh; Rasapudipalem",
    "IQ": "Abu Ghurayb; Al Basrah al Qadimah; Al Mawsil al Jadidah",
    "IR": "Eslamshahr",
    "JP": "Aihara; Suginami",
    "KH": "Takeo",
    "KP": "Sunch'on",  # written like a city of South Korea
    "KW": "Al Ahmadi",
    "MX": "Cuautitlan Izcalli; Ecatepec de Morelos; Leon de los Aldama; Zapopan",
    "MY": "Kota Kuala Muda",
    "PH": "Budta; Caloocan; Imus; Malingao; Muntinlupa; Quezon City; San Jose del Monte",
    "PK": "Arifwala; Battagram; Bhawana; Chunian; Jalalpur Pirwala; Muzaffarabad; Pindi Bhattian;"
    "Rawalpindi; Tando Bago",
    "SO": "Borama; Hargeysa",
    "SV": "San Salvador",  # gives the answer away
    "TR": "Batman; Beylikduzu; Esenyurt; Sancaktepe; Sultanbeyli; Van",
    "UA": "Donetsk; Luhansk; Makiyivka; Pravyi Bereh; Sevastopol; Simferopol",
    "US": "Atlanta",  # "in Georgia" would be read as the country
    "VN": "Ben Cat",
    "ZA": "Diepsloot; East London; Evaton",
}

# The usual English name, where GeoNames writes another.
ENGLISH = {
    "Al Ain City": "Al Ain",
    "Andijon": "Andijan",
    "Basrah": "Basra",
    "Cebu City": "Cebu",
    "Chattogram": "Chittagong",
    "Frankfurt am Main": "Frankfurt",
    "Hannover": "Hanover",
    "Homyel'": "Gomel",
    "Jeju City": "Jeju",
    "Koln": "Cologne",
    "Kryvyy Rih": "Kryvyi Rih",
    "Madinah": "Medina",
    "Makkah": "Mecca",
    "Nizhniy Novgorod": "Nizhny Novgorod",
    "Quebec": "Quebec City",
    "Santiago de Queretaro": "Queretaro",
    "Sevilla": "Seville",
    "Ta'if": "Taif",
    "Tuxtla": "Tuxtla Gutierrez",
    "Ulan Bator": "Ulaanbaatar",
    "Zaporizhzhya": "Zaporizhzhia",
}

# Country names that differ from GeoNames, as they stand after "is in".
COUNTRY_NAMES = {
    "BQ": "the Caribbean Netherlands",
    "CV": "Cape Verde",
    "CZ": "the Czech Republic",
    "NL": "the Netherlands",
    "PS": "Palestine",
    "TL": "East Timor",
    "VA": "Vatican City",
}
WITH_ARTICLE = set(
    "AE AN AX BS CC CD CF CG CK DO FK FO GB GM IM IO KM KY MH MP MV PH SB SC TC TF UM US"
    " VG VI".split()
)

# Other accepted names. One that stands under two countries counts for either. Left out are
# demonyms ("a French-built port" is not in France) and former, larger states (the Soviet Union).
ALIASES = {
    "AE": "UAE; U.A.E.; Emirates",
    "AG": "Antigua; Barbuda",
    "AX": "Aland",
    "BA": "Bosnia; Herzegovina; Bosnia-Herzegovina; Bosnia & Herzegovina",
    "BQ": "Bonaire; Sint Eustatius; Saba",
    "BY": "Byelorussia",
    "CC": "Keeling Islands; Cocos (Keeling) Islands",
    "CD": "DR Congo; D.R. Congo; DRC; D.R.C.; Congo; Congo-Kinshasa; Democratic Republic of Congo",
    "CF": "CAR; C.A.R.",
    "CG": "Republic of Congo; Congo; Congo-Brazzaville",
    "CI": "Cote d'Ivoire",
    "CN": "PRC; P.R.C.; People's Republic of China",
    "CV": "Cabo Verde",
    "CZ": "Czechia",
    "FK": "Malvinas; Islas Malvinas",
    "FO": "Faeroe Islands; Faroes",
    "GB": "UK; U.K.; Great Britain; Britain; England; Scotland; Wales; Northern Ireland",
    "GM": "Gambia",
    "GW": "Guinea Bissau",
    "IE": "Eire",
    "KN": "Saint Kitts; Nevis",
    "KP": "DPRK; D.P.R.K.; Democratic People's Republic of Korea; Korea",
    "KR": "Republic of Korea; Korea; ROK",
    "LA": "Lao PDR; Lao People's Democratic Republic",
    "MK": "Macedonia",
    "MM": "Burma",
    "MO": "Macau",
    "NL": "Holland",
    "PN": "Pitcairn Islands",
    "PS": "Palestinian Territory; Palestinian Territories; West Bank; Gaza Strip",
    "RU": "Russian Federation",
    "SA": "KSA",
    "SH": "Ascension Island; Tristan da Cunha",
    "SJ": "Svalbard; Jan Mayen",
    "ST": "Sao Tome",
    "SX": "Saint Martin",
    "SY": "Syrian Arab Republic",
    "SZ": "Swaziland",
    "TL": "Timor-Leste; Timor Leste",
    "TR": "Turkiye",
    "TT": "Trinidad; Tobago; Trinidad & Tobago",
    "TW": "Republic of China; Formosa",
    "US": "USA; U.S.A.; US; U.S.; America; the States",
    "VA": "Vatican; Holy See",
    "VC": "Saint Vincent; Grenadines",
    "VG": "Virgin Islands",
    "VI": "Virgin Islands; United States Virgin Islands; US Virgin Islands",
    "VN": "Viet Nam",
}
