package dev.pocketvlm

import dev.pocketvlm.bundle.parseJson
import java.io.File

/** A folder that the build names: `golden` of the repository's, `cases` of what `tests/android` made for this run. */
fun folder(name: String): File = File(checkNotNull(System.getProperty(name)) { "the build gives no -D$name" })

fun golden(name: String): Any? = parseJson(folder("golden").resolve(name).readBytes())

/** An object of JSON, read by key. */
class Case(private val values: Map<*, *>) {
    constructor(value: Any?) : this(value as Map<*, *>)

    operator fun get(key: String): Any? = values[key]

    fun int(key: String): Int = (values[key] as Long).toInt()

    fun intOrNull(key: String): Int? = (values[key] as Long?)?.toInt()

    fun double(key: String): Double = (values[key] as Number).toDouble()

    fun text(key: String): String = values[key] as String

    fun flag(key: String): Boolean = values[key] == true

    fun list(key: String): List<*> = values[key] as List<*>

    fun ints(key: String): List<Int> = list(key).map { (it as Long).toInt() }

    fun doubles(key: String): List<Double> = list(key).map { (it as Number).toDouble() }

    fun cases(key: String): List<Case> = list(key).map { Case(it) }

    fun toMap(): Map<*, *> = values

    /** This case with another value, to see that a check notices. */
    fun with(key: String, value: Any?): Case = Case(values + (key to value))

    override fun toString(): String = values.toString().take(300)
}

/** That [found], which gives a value for each of [keys], says what all [cases] say, and that a difference is noticed. */
fun holdTo(cases: List<Case>, vararg keys: String, found: (Case) -> List<Any?>) {
    check(cases.isNotEmpty()) { "no cases" }
    val different = cases.mapNotNull { case -> disagreement(case, keys, found(case)) }
    check(different.isEmpty()) { "${different.size} of ${cases.size} are different:\n${different.take(5).joinToString("\n")}" }
    val last = cases.last()
    for (key in keys) checkNotNull(disagreement(last.with(key, "another"), keys, found(last))) { "$key is not looked at" }
}

private fun disagreement(case: Case, keys: Array<out String>, found: List<Any?>): String? =
    keys.indices.firstOrNull { asJson(found[it]) != asJson(case[keys[it]]) }?.let { "$case: ${keys[it]} is ${found[it]}" }

private fun asJson(value: Any?): Any? = when (value) {
    is Int -> value.toLong()
    is List<*> -> value.map(::asJson)
    else -> value
}
