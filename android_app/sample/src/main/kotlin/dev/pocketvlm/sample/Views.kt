package dev.pocketvlm.sample

import android.app.Activity
import android.content.Context
import android.view.View
import android.widget.EditText
import java.text.NumberFormat

/** A view that the layout has: requireViewById() is Android 9's. */
internal fun <T : View> View.find(id: Int): T = checkNotNull(findViewById(id)) { "the layout lacks a view" }

internal fun <T : View> Activity.find(id: Int): T = checkNotNull(findViewById(id)) { "the layout lacks a view" }

internal fun View.showIf(isShown: Boolean) {
    visibility = if (isShown) View.VISIBLE else View.GONE
}

/** Replaces the text and puts the cursor behind it. */
internal fun EditText.setTextAt(text: String) {
    setText(text)
    setSelection(length())
}

/** Three digits or so, as the user's language writes them. */
internal fun number(context: Context, value: Double): String =
    NumberFormat.getNumberInstance(context.resources.configuration.locales[0]).run {
        maximumFractionDigits = if (value >= 100) 0 else if (value >= 10) 1 else 2
        format(value)
    }
